"""Heads that turn an encoder's hidden states into a task's outputs."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear

# Far from any backbone's sites, whatever its number of layers.
HEAD_SITE = 1 << 16


class TokenClassifier(nnx.Module):
    """A backbone, dropout, and one linear layer `head` that scores each token for each label.

    backbone: called like `Bert`, its width in `hidden_size`. dropout: the rate before the head. head: its class.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        *,
        num_labels: int,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        head: type[Linear] = Linear,
    ):
        self.backbone = backbone
        self.head = head(backbone.hidden_size, num_labels, initializer_range=initializer_range, rngs=rngs)
        self.rate = dropout

    def __call__(
        self, inputs: Inputs, dropout: DropoutSeed | None = None, output_mask: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits of each token, float32 `[R, L, C]`.

        output_mask: boolean `[R, L]`, as a backbone's; where it is false the logits may mean nothing.
        """
        x = self.backbone(inputs, dropout, output_mask)
        rows, length, size = x.shape
        x = apply_dropout(x.reshape(rows * length, size), self.rate, dropout, HEAD_SITE, rows=rows)
        return self.head(x.astype(jnp.float32)).reshape(rows, length, -1)


POOLS = ("pooler", "cls", "last", "mean", "max")


class Score(nnx.Module):
    """A linear layer `score` without bias, as in transformers' GPT2ForSequenceClassification."""

    def __init__(self, inputs: int, outputs: int, *, initializer_range: float, rngs: nnx.Rngs):
        self.score = Linear(inputs, outputs, initializer_range=initializer_range, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D] -> [..., C]`."""
        return self.score(x)


class SequenceClassifier(nnx.Module):
    """A backbone, the pooled states of each segment, dropout, and one linear layer `head` that scores the segment.

    pool: "pooler", the backbone's tanh layer over a segment's first state, as transformers'
    BertForSequenceClassification; "cls", that state itself; "last", the segment's last state, which of a causal backbone
    is the only one to have seen all of it; "mean" or "max" over a segment's states, those of special tokens included.
    Otherwise as `TokenClassifier`.
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
        head: type[nnx.Module] = Linear,
    ):
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is none of {POOLS}")
        self.backbone = backbone
        self.head = head(backbone.hidden_size, num_labels, initializer_range=initializer_range, rngs=rngs)
        self.pool = pool
        self.rate = dropout

    def __call__(self, inputs: Inputs, starts: jax.Array, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of each segment, float32 `[R, S, C]`.

        starts: int32 `[R, S]`, the slot where segment k + 1 begins. Where a row has no such segment its logits mean
        nothing.
        """
        rows, segments = starts.shape
        member = inputs.segment_ids[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]  # [R, S, L]
        slots = output_mask = None  # of the one state of each segment that is read
        if self.pool in ("pooler", "cls", "last"):
            slots = starts
            if self.pool == "last":
                slots = starts + jnp.maximum(member.sum(axis=-1), 1) - 1
            output_mask = jnp.any(member & (jnp.arange(member.shape[-1]) == slots[..., None]), axis=1)
        x = self.backbone(inputs, dropout, output_mask)
        if slots is not None:
            x = jnp.take_along_axis(x, slots[..., None], axis=1)
            x = self.backbone.pool(x) if self.pool == "pooler" else x
        else:
            if self.pool == "mean":
                weights = member / jnp.maximum(member.sum(axis=-1, keepdims=True), 1)
                x = jnp.einsum("rsl,rld->rsd", weights.astype(x.dtype), x)
            else:
                lowest = jnp.finfo(x.dtype).min
                x = jnp.max(jnp.where(member[..., None], x[:, None], lowest), axis=2)
                x = jnp.where(member.any(axis=-1)[..., None], x, 0)
        x = apply_dropout(x.reshape(rows * segments, -1), self.rate, dropout, HEAD_SITE, rows=rows)
        return self.head(x.astype(jnp.float32)).reshape(rows, segments, -1)


class LanguageModel(nnx.Module):
    """A causal `backbone`, called like `GPT2`, that scores words by `backbone.attend`."""

    def __init__(self, backbone: nnx.Module):
        self.backbone = backbone

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of the next token at each position, float32 `[R, L, V]`."""
        return self.backbone.attend(self.backbone(inputs, dropout))
