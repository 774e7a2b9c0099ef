"""Token classification: predicts tags of words from the hidden state of each word's first (or last) subword."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.data.batching.batch import TOKEN_LABELS, BatchSpec
from jaxft.data.batching.output_positions import LABELLED_TOKENS, OutputRule
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.classification import ClassificationHead
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.losses import cross_entropy
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import find_head, make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.checkpoint_heads import find_head_order
from jaxft.tasks.label_losses import loss_with_r_drop, read_class_weights
from jaxft.tasks.token_classification.settings import Settings


class TokenClassification(Task):
    """Predicts named entities or other labels of words, by a softmax over IOB2 tags or plain labels."""

    batch_spec = BatchSpec(TOKEN_LABELS)
    head_class: type[ClassificationHead] = ClassificationHead

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.head_dropout = head_dropout
        self.label_smoothing = config.loss.label_smoothing
        self.focal_gamma = config.loss.focal_gamma
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1
        self.class_weights = read_class_weights(config.loss, labels)

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `TokenClassifier` over a backbone of `model_config`."""
        return TokenClassifier(
            make_backbone(model_config, runtime, rngs=rngs),
            num_labels=len(self.labels),
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            form=find_head(model_config, HeadKind.TOKEN).form,
            head_class=self.head_class,
        )

    def _loss(self, model: nnx.Module, logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        return cross_entropy.cross_entropy(
            logits,
            batch["labels"],
            batch["weights"],
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            class_weights=None if self.class_weights is None else jnp.asarray(self.class_weights),
        )

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the cross-entropy summed over labelled subwords, and their number; see `loss_with_r_drop`."""
        return loss_with_r_drop(
            lambda dropout: _logits(model, batch, dropout),
            lambda logits: self._loss(model, logits, batch),
            lambda first, second: cross_entropy.symmetric_divergence(first, second, batch["weights"]),
            self.r_drop,
            dropout,
        )

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the logits of all labels at all subwords without dropout, float32 [R, L, C]."""
        return _logits(model, batch)

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns the outputs that `TagEvaluator` needs for each subword, and the loss."""
        logits = self.logits(model, batch)
        return self._outputs(model, logits), *self._loss(model, logits, batch)

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> Arrays:
        """Returns {"label": int32 [R, L], "score": float32 [R, L]} of the most probable label."""
        return {
            "label": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "score": jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1),
        }

    def output_rule(self, model_config: ModelConfig) -> OutputRule:
        """Returns the rule of labelled subwords."""
        return LABELLED_TOKENS

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in the head of a checkpoint with the same labels."""
        return find_head_order(hf_config, "ForTokenClassification", self.labels)


def _logits(model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None = None) -> jax.Array:
    return model(Inputs.from_batch(batch), dropout=dropout)
