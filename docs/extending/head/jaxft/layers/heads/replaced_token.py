"""Tells which tokens of a text were replaced, as in the pretraining of ELECTRA (Clark et al., 2020, section 2)."""

import functools

import jax
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import Backbone
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.precision import widen


class ReplacedTokenHead(nnx.Module):
    """A linear layer with activation, and a linear layer that gives one score.

    Args:
      size: D, the width of the states.
      activation: a key of `ACTIVATIONS`.
      initializer_range: the standard deviation of new weights.
    """

    def __init__(self, size: int, *, activation: str, initializer_range: float, rngs: nnx.Rngs):
        make_linear = functools.partial(Linear, size, initializer_range=initializer_range, rngs=rngs)
        self.dense = make_linear(size)
        self.score = make_linear(1)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns a score for each state, `[..., D] -> [...]`; above 0 if the token was probably replaced."""
        return self.score(ACTIVATIONS[self.activation](self.dense(x)))[..., 0]


class ReplacedTokenModel(nnx.Module):
    """A backbone with a `ReplacedTokenHead`."""

    def __init__(self, backbone: Backbone, *, rngs: nnx.Rngs):
        config = backbone.config
        self.backbone = backbone
        self.head = ReplacedTokenHead(
            config.hidden_size,
            activation=config.activation,
            initializer_range=config.initializer_range,
            rngs=rngs,
        )

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the score of each token, float32 `[R, L]`."""
        return self.head(widen(self.backbone(inputs, dropout)))
