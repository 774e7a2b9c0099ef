"""Predicts the tokens behind masks, as in pretraining (Devlin et al., 2019, section 3.1)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.parameters import Kind, Role, make_parameter


class MaskedLMHead(nnx.Module):
    """A linear layer with activation and norm, then a product with the word embeddings, and a bias for each token.

    Args:
      size: D, the width of the states.
      vocab_size: V.
      activation: a key of `ACTIVATIONS`.
      epsilon: the norm's.
      initializer_range: the standard deviation of new weights.
    """

    def __init__(
        self,
        size: int,
        vocab_size: int,
        *,
        activation: str,
        epsilon: float,
        initializer_range: float,
        rngs: nnx.Rngs,
    ):
        self.transform = Linear(size, size, initializer_range=initializer_range, rngs=rngs)
        self.norm = LayerNorm(size, epsilon=epsilon)
        self.bias = make_parameter(jnp.zeros((vocab_size,), jnp.float32), Role(Kind.BIAS))
        self.activation = activation

    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Returns the logits `[..., V]` of states `[..., D]`, for word embeddings `[V, D]`."""
        x = self.norm(ACTIVATIONS[self.activation](self.transform(x)))
        return x @ embedding.T + self.bias[...]


class MaskedLM(nnx.Module):
    """A backbone, whose states see what stands before and after them, with a `MaskedLMHead`."""

    def __init__(self, backbone: nnx.Module, *, rngs: nnx.Rngs):
        config = backbone.config
        self.backbone = backbone
        self.head = MaskedLMHead(
            config.hidden_size,
            config.vocab_size,
            activation=config.activation,
            epsilon=config.layer_norm_eps,
            initializer_range=config.initializer_range,
            rngs=rngs,
        )

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of the token at each position, float32 `[R, L, V]`."""
        x = self.backbone(inputs, dropout).astype(jnp.float32)
        return self.head(x, self.backbone.embeddings.word.embedding[...])
