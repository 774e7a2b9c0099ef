"""A body that predicts the next token with its own word embeddings: no parameters of its own."""

import jax
from flax import nnx

from jaxft.models.layers import DropoutSeed


class LanguageModel(nnx.Module):
    """A causal `body`, called like `GPT2`, that scores words by `body.attend`."""

    def __init__(self, body: nnx.Module):
        self.body = body

    def __call__(
        self,
        input_ids: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array,
        dropout: DropoutSeed | None = None,
    ) -> jax.Array:
        """All inputs int32 `[R, L]` (see `GPT2.__call__`) -> logits of the next token, float32 `[R, L, V]`."""
        return self.body.attend(self.body(input_ids, segment_ids, positions, token_type_ids, dropout))
