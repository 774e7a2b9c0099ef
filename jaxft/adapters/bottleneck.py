"""Bottleneck adapters: a narrow MLP with a residual connection after a linear layer.

Houlsby et al. (2019) place them after the output layers of attention and of the MLP; Pfeiffer et al. (2021) after the
MLP's alone. Dropout and the layer's residual connection follow. A new adapter changes nothing: its last matrix is 0.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.base import Method, Target, make_constant
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import drop_adapter_input
from jaxft.layers.linear import Linear, add_bias
from jaxft.layers.parameters import Kind, Role, make_parameter

INITIALIZER_RANGE = 0.01  # the standard deviation of new weights (Houlsby et al. 2019, section 3.6)
PLACEMENTS = {"houlsby": ("attention/output", "mlp/down"), "pfeiffer": ("mlp/down",)}


class Bottleneck(nnx.Module):
    """The adapter of a linear layer: `y + active * (act(y @ down + down_bias) @ up + up_bias)` for its output y.

    Args:
      size: the width of y.
      width: r, the width within.
      target: the layer.
      activation: a key of `ACTIVATIONS`.
      rate: of dropout of what `down` reads.
    """

    def __init__(
        self, size: int, width: int, target: Target, *, activation: str, rate: float, rngs: nnx.Rngs
    ):
        matrix, bias = Role(Kind.ADAPTER), Role(Kind.BIAS)
        shape = target.shape(size, width)
        active = target.stack([float(rank > 0) for rank in target.ranks])
        weights = INITIALIZER_RANGE * jax.random.normal(rngs.params(), shape)
        self.down = make_parameter(active[..., None, None] * weights, matrix)
        self.down_bias = make_parameter(jnp.zeros(target.shape(width), jnp.float32), bias)
        self.up = make_parameter(jnp.zeros(target.shape(width, size), jnp.float32), matrix)
        self.up_bias = make_parameter(jnp.zeros(target.shape(size), jnp.float32), bias)
        self.active = make_constant(active)
        self.activation, self.rate, self.number = activation, rate, target.number

    def adapt_input(self, x: jax.Array) -> jax.Array:
        """Returns x."""
        return x

    def finish(self, x: jax.Array, product: jax.Array, linear: Linear) -> jax.Array:
        """Returns the layer's output; see `layers.linear.Adapter`."""
        y = linear.add_bias(product)
        down, up, active = (value[...].astype(y.dtype) for value in (self.down, self.up, self.active))
        inner = add_bias(drop_adapter_input(y, self.rate, self.number) @ down, self.down_bias[...])
        return y + active * add_bias(ACTIVATIONS[self.activation](inner) @ up, self.up_bias[...])


def make(
    linears: Sequence[Linear], target: Target, settings: AdapterSettings, rngs: nnx.Rngs
) -> list[Bottleneck]:
    """Returns the adapters of a target's linear layers."""
    return [
        Bottleneck(
            linear.kernel.shape[-1],
            settings.r,
            target,
            activation=settings.activation,
            rate=settings.dropout,
            rngs=rngs,
        )
        for linear in linears
    ]


def list_targets(settings: AdapterSettings, presets: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Returns the linear layers of the placement."""
    return PLACEMENTS[settings.placement]


METHOD = Method(make=make, list_targets=list_targets, adapter=Bottleneck)
