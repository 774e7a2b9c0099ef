"""Heads that turn an encoder's hidden states into a task's outputs."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.models import layers
from jaxft.models.layers import DropoutSeed, Linear

# Far from any body's sites, whatever its number of layers.
HEAD_SITE = 1 << 16


class TokenClassifier(nnx.Module):
    """A body, dropout, and one linear layer `head` that scores each token for each label.

    body: called like `Bert`, its width in `hidden_size`. dropout: the rate before the head. head: its class.
    """

    def __init__(
        self,
        body: nnx.Module,
        *,
        num_labels: int,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        head: type[Linear] = Linear,
    ):
        self.body = body
        self.head = head(body.hidden_size, num_labels, initializer_range=initializer_range, rngs=rngs)
        self.rate = dropout

    def __call__(
        self,
        input_ids: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array,
        dropout: DropoutSeed | None = None,
    ) -> jax.Array:
        """All inputs int32 `[R, L]` (see `Bert.__call__`) -> logits float32 `[R, L, C]`."""
        x = self.body(input_ids, segment_ids, positions, token_type_ids, dropout)
        rows, length, size = x.shape
        x = layers.dropout(x.reshape(rows * length, size), self.rate, dropout, HEAD_SITE, rows=rows)
        return self.head(x.astype(jnp.float32)).reshape(rows, length, -1)
