"""Classifies each segment of a row."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import HEAD_SITE, DropoutSeed, apply_dropout
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear

POOLS = ("pooler", "cls", "last", "mean", "max")


class ScoreHead(nnx.Module):
    """A linear layer `score` without bias, as in transformers' GPT2ForSequenceClassification."""

    def __init__(self, in_features: int, out_features: int, *, initializer_range: float, rngs: nnx.Rngs):
        self.score = Linear(
            in_features, out_features, initializer_range=initializer_range, use_bias=False, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the scores of each vector, `[..., D] -> [..., C]`."""
        return self.score(x)


class SequenceClassifier(nnx.Module):
    """A sequence classifier: a backbone, pooling of each segment's states, dropout, and a linear layer `head`.

    Args:
      backbone: called like `Bert`; has its width in `hidden_size`, and a method `pool` if it has a pooler.
      num_labels: C.
      pool: how a segment's states become one vector.
        "pooler": the backbone's tanh layer on the first state, as in transformers' BertForSequenceClassification.
        "cls": the first state itself.
        "last": the last state. In a causal backbone only this state depends on the entire segment.
        "mean" or "max": the mean or maximum over all states of the segment, including those of special tokens.
      dropout: the dropout rate before the head.
      initializer_range: the standard deviation of the head's new weights.
      head_class: the head's class, constructed like `Linear`.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        *,
        num_labels: int,
        pool: str,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        head_class: type[nnx.Module] = Linear,
    ):
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is none of {POOLS}")
        self.backbone = backbone
        self.head = head_class(
            backbone.config.hidden_size, num_labels, initializer_range=initializer_range, rngs=rngs
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
            x = self._pool_segments(self.backbone(inputs, dropout), member)
        x = apply_dropout(x.reshape(rows * segments, -1), self.rate, dropout, HEAD_SITE, rows=rows)
        return self.head(x.astype(jnp.float32)).reshape(rows, segments, -1)

    def _select_states(
        self, inputs: Inputs, starts: jax.Array, member: jax.Array, dropout: DropoutSeed | None
    ) -> jax.Array:
        """Returns the one state that represents each segment, `[R, S, D]`."""
        slots = starts
        if self.pool == "last":
            slots = starts + jnp.maximum(member.sum(axis=-1), 1) - 1
        x = jnp.take_along_axis(self.backbone(inputs, dropout), slots[..., None], axis=1)
        return self.backbone.pool(x) if self.pool == "pooler" else x

    def _pool_segments(self, x: jax.Array, member: jax.Array) -> jax.Array:
        """Returns the mean or maximum of each segment's states, `[R, L, D] -> [R, S, D]`; 0 for a missing segment."""
        if self.pool == "mean":
            weights = member / jnp.maximum(member.sum(axis=-1, keepdims=True), 1)
            return jnp.einsum("rsl,rld->rsd", weights.astype(x.dtype), x)
        x = jnp.max(jnp.where(member[..., None], x[:, None], jnp.finfo(x.dtype).min), axis=2)
        return jnp.where(member.any(axis=-1)[..., None], x, 0)
