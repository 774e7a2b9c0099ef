"""Predicts ratings by asking of each text: is its rating above 1, above 2, and so on (Frank and Hall, 2001)?"""

import jax
import numpy as np
from flax import nnx

from jaxft.data.batching.batch import BatchSpec, segment_labels
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.sequence import SequenceClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.losses.cross_entropy import binary_cross_entropy
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import find_head, make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.ratings.settings import Settings
from jaxft.tasks.settings import resolve_max_segments


class Ratings(Task):
    """A sigmoid for each of `labels`, over one vector for each text."""

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.head_dropout = head_dropout
        self.batch_spec = BatchSpec(
            segment_labels(np.float32, (len(labels),)), resolve_max_segments(config.data)
        )

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `SequenceClassifier`, which pools as transformers' class of the family does."""
        head = find_head(model_config, HeadKind.SEQUENCE)
        assert head.pool is not None  # a family says it with this kind of head
        return SequenceClassifier(
            make_backbone(model_config, runtime, rngs=rngs, pooler=head.pool == "pooler"),
            num_labels=len(self.labels),
            pool=head.pool,
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            form=head.form,
        )

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the cross-entropy summed over texts, and their number."""
        return _loss(_logits(model, batch, dropout), batch)

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the logits without dropout, float32 [R, S, C]."""
        return _logits(model, batch, None)

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns {"logits": float32 [R, S, C]}, and the loss."""
        logits = self.logits(model, batch)
        return {"logits": logits}, *_loss(logits, batch)


def _logits(model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
    return model(Inputs.from_batch(batch), batch["starts"], dropout=dropout)


def _loss(logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
    return binary_cross_entropy(logits, batch["labels"], batch["weights"])
