"""Computes the feed-forward block of a transformer layer, with a gate or without."""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.parallel.sharded_matmul import ActivationLayout


class MLP(nnx.Module):
    """Two linear layers with an activation between them.

    Args:
      size: D, the width of x.
      inner_size: the width between the layers.
      activation: a key of `ACTIVATIONS`.
      initializer_range: the standard deviation of the first layer's new weights.
      output_range: the standard deviation of the second layer's new weights.
      layout: the layout of x over devices, if x is `[N, D]`; None on one device.
    """

    def __init__(
        self,
        size: int,
        inner_size: int,
        *,
        activation: str,
        initializer_range: float,
        output_range: float,
        layout: ActivationLayout | None,
        rngs: nnx.Rngs,
    ):
        make_linear = functools.partial(Linear, layout=layout, rngs=rngs)
        self.up = make_linear(size, inner_size, initializer_range=initializer_range, axes=SPLIT_OUTPUTS)
        self.down = make_linear(inner_size, size, initializer_range=output_range, axes=SPLIT_INPUTS)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block, `[..., D] -> [..., D]`."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class GatedMLP(nnx.Module):
    """Two linear layers with a gated activation between them (Shazeer, 2020): `down(activation(up(x)) * gate(x))`.

    Args:
      size: D, the width of x.
      inner_size: I, the width between the layers.
      activation: a key of `ACTIVATIONS`; "gelu" makes it a GeGLU.
      use_bias: whether the linear layers have biases.
      initializer_range: the standard deviation of new weights of `up` and `gate`.
      output_range: the standard deviation of new weights of `down`.
      layout: as in `MLP`.
    """

    def __init__(
        self,
        size: int,
        inner_size: int,
        *,
        activation: str,
        use_bias: bool,
        initializer_range: float,
        output_range: float,
        layout: ActivationLayout | None,
        rngs: nnx.Rngs,
    ):
        make_linear = functools.partial(Linear, use_bias=use_bias, layout=layout, rngs=rngs)
        make_input = functools.partial(
            make_linear, size, inner_size, initializer_range=initializer_range, axes=SPLIT_OUTPUTS
        )
        self.up, self.gate = make_input(), make_input()
        self.down = make_linear(inner_size, size, initializer_range=output_range, axes=SPLIT_INPUTS)
        self.activation = activation

    def __call__(self, x: jax.Array, drop: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Applies the block, `[..., D] -> [..., D]`; `drop` applies dropout between the layers, to `[..., I]`."""
        up, gate = apply_linears(x, self.up, self.gate)
        return self.down(drop(ACTIVATIONS[self.activation](up) * gate))
