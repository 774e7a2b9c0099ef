"""Classifies each segment of a row."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import Backbone, PooledBackbone
from jaxft.layers.heads.classification import PLAIN_FORM, ClassificationHead, HeadForm
from jaxft.layers.heads.segment_max import segment_max
from jaxft.layers.inputs import Inputs

POOLS = ("pooler", "cls", "last", "mean", "max")


class SequenceClassifier(nnx.Module):
    """A sequence classifier: a backbone, pooling of each segment's states, and a `ClassificationHead`.

    Args:
      backbone: called like `Bert`; has its width in `config.hidden_size`, and a method `pool` if it has a pooler.
      num_labels: C.
      pool: how a segment's states become one vector.
        "pooler": the backbone's tanh layer on the first state, as in transformers' BertForSequenceClassification.
        "cls": the first state itself.
        "last": the last state. In a causal backbone only this state depends on the entire segment.
        "mean" or "max": the mean or maximum over all states of the segment, including those of special tokens.
      dropout: the dropout rate in the head.
      initializer_range: the standard deviation of the head's new weights.
      form: the head's layers.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_labels: int,
        pool: str,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        form: HeadForm = PLAIN_FORM,
    ):
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is none of {POOLS}")
        self.backbone = backbone
        self.head = ClassificationHead(
            backbone.config.hidden_size, num_labels, form, initializer_range=initializer_range, rngs=rngs
        )
        self.pool = pool
        self.rate = dropout

    def __call__(self, inputs: Inputs, starts: jax.Array, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of each segment.

        Args:
          inputs: the batch's arrays.
          starts: int32 `[R, S]`, the slot where segment k + 1 begins.
          dropout: the seed; None for no dropout.

        Returns:
          float32 `[R, S, C]`. The logits of a segment that a row does not have are undefined.
        """
        rows, segments = starts.shape
        member = inputs.segment_ids[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]  # [R, S, L]
        if self.pool in ("pooler", "cls", "last"):
            x = self._select_states(inputs, starts, member, dropout)
        else:
            x = self._pool_segments(inputs, starts, member, dropout)
        scores = self.head(x.reshape(rows * segments, -1), self.rate, dropout, rows=rows)
        return scores.reshape(rows, segments, -1)

    def _select_states(
        self, inputs: Inputs, starts: jax.Array, member: jax.Array, dropout: DropoutSeed | None
    ) -> jax.Array:
        """Returns the one state that represents each segment, `[R, S, D]`."""
        slots = _find_last_slots(starts, member) if self.pool == "last" else starts
        x = jnp.take_along_axis(self.backbone(inputs, dropout), slots[..., None], axis=1)
        return cast(PooledBackbone, self.backbone).pool(x) if self.pool == "pooler" else x

    def _pool_segments(
        self, inputs: Inputs, starts: jax.Array, member: jax.Array, dropout: DropoutSeed | None
    ) -> jax.Array:
        """Returns the mean or maximum of each segment's states, `[R, S, D]`; 0 for a missing segment."""
        x = self.backbone(inputs, dropout)
        if self.pool == "mean":
            weights = member / jnp.maximum(member.sum(axis=-1, keepdims=True), 1)
            return jnp.einsum("rsl,rld->rsd", weights.astype(x.dtype), x)
        x = segment_max(x, inputs.segment_ids, _find_last_slots(starts, member))
        return jnp.where(member.any(axis=-1)[..., None], x, 0)


def _find_last_slots(starts: jax.Array, member: jax.Array) -> jax.Array:
    """Returns the last slot of each segment, `[R, S]`; the first one for a missing segment."""
    return starts + jnp.maximum(member.sum(axis=-1), 1) - 1
