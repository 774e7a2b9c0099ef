"""Text classification: predicts a label, several labels or a number for each text or pair, from pooled states."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxft.data.batching.batch import BatchSpec, segment_labels
from jaxft.data.batching.output_positions import FIRST_TOKENS, LAST_TOKENS, OutputRule
from jaxft.data.sources.labels import NUMBER, SINGLE
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.sequence import SequenceClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.models.family import Head
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import FAMILIES, find_head, make_backbone, read_model_config
from jaxft.tasks.base import Arrays
from jaxft.tasks.checkpoint_heads import find_head_order
from jaxft.tasks.labels.label_task import LabelTask
from jaxft.tasks.sequence_classification.settings import Settings
from jaxft.tasks.settings import resolve_max_segments


def resolve_pool(config: Settings, model_config: ModelConfig) -> str:
    """Returns the pooling of hidden states: `config.model.pool`, where "auto" is that of transformers' class."""
    if config.model.pool != "auto":
        return config.model.pool
    pool = class_head(model_config).pool
    assert pool is not None, f"{model_config.model_type} classifies no texts"
    return pool


def class_head(model_config: ModelConfig) -> Head:
    """Returns what transformers' class for sequence classification has over a backbone of this shape."""
    return find_head(model_config, HeadKind.SEQUENCE)


def has_transformers_class(config: Settings, model_config: ModelConfig) -> bool:
    """Returns True if transformers' class for sequence classification computes the same as a model of `config`.

    That class has only one way of pooling. For some families it has no bias, which numbers in the data's units need.
    """
    head = class_head(model_config)
    needs_missing_bias = not head.form.has_bias and config.model.problem_type == NUMBER
    return resolve_pool(config, model_config) == head.pool and not needs_missing_bias


class SequenceClassification(LabelTask):
    """Predicts labels or numbers for texts."""

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        super().__init__(labels, config, head_dropout)
        self.config = config
        target = self.label_type.target
        self.batch_spec = BatchSpec(
            segment_labels(target.dtype, target.shape), resolve_max_segments(config.data)
        )

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `SequenceClassifier` over a backbone of `model_config`.

        Raises:
          UserError: the backbone does not support `config.model.pool`.
        """
        family = FAMILIES[model_config.model_type]
        pool = resolve_pool(self.config, model_config)
        obstacle = None
        if family.is_causal and pool in ("cls", "pooler"):
            obstacle = f"the first token of {family.display_name} sees only itself"
        elif pool == "pooler" and not family.has_pooler:
            obstacle = f"{family.display_name} has no pooler"
        if obstacle:
            raise UserError(
                f"config.model.pool={pool!r}: {obstacle}; expected {class_head(model_config).pool!r} "
                "(which 'auto' means), 'mean' or 'max'"
            )
        return SequenceClassifier(
            make_backbone(model_config, runtime, rngs=rngs, pooler=pool == "pooler"),
            num_labels=len(self.labels),
            pool=pool,
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            form=class_head(model_config).form,
        )

    def compute_logits(self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the logits of texts, float32 [R, S, C]."""
        return model(Inputs.from_batch(batch), batch["starts"], dropout=dropout)

    def output_rule(self, model_config: ModelConfig) -> OutputRule | None:
        """Returns the rule of first or of last tokens, or None if the head pools all."""
        pool = resolve_pool(self.config, model_config)
        return {"pooler": FIRST_TOKENS, "cls": FIRST_TOKENS, "last": LAST_TOKENS}.get(pool)

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in a checkpoint's head, if it pools and has the kind of labels as here."""
        problem_type = hf_config.get("problem_type") or SINGLE
        same = problem_type == self.config.model.problem_type != NUMBER
        if not (same and has_transformers_class(self.config, read_model_config(hf_config))):
            return None
        return find_head_order(hf_config, "ForSequenceClassification", self.labels)
