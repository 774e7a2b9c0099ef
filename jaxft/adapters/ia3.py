"""IA3 (Liu et al. 2022): multiplies what a linear layer returns, or what it reads, by a trained vector of factors.

As in PEFT, factors of outputs multiply the bias too, and `feedforward_modules` names layers whose inputs are scaled.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.base import LinearUpdate, Method, Target, make_constant, read_bias, tensor_axes
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.layers.linear import Linear
from jaxft.layers.parameters import Kind, Role, make_parameter


class IA3(nnx.Module):
    """The adapter of a linear layer.

    Args:
      factors: `[in]` or `[out]`, perhaps shared with other layers if `[in]`.
      active: a scalar, 1 in layers with an adapter and 0 in others. Stacks have one more dimension in front.
      reads_input: whether the factors are those of the input.
    """

    def __init__(self, factors: nnx.Param[jax.Array], active: nnx.Param[jax.Array], *, reads_input: bool):
        self.factors, self.active, self.reads_input = factors, active, reads_input

    def _read_factors(self) -> jax.Array:
        """Returns the factors, 1 in layers without an adapter."""
        return jnp.where(self.active[...][..., None] > 0, self.factors[...], 1.0)

    def adapt_input(self, x: jax.Array) -> jax.Array:
        """Returns the scaled x if the factors are those of the input."""
        return x * self._read_factors().astype(x.dtype) if self.reads_input else x

    def finish(self, x: jax.Array, product: jax.Array, linear: Linear) -> jax.Array:
        """Returns the layer's output; see `layers.linear.Adapter`."""
        output = linear.add_bias(product)
        return output if self.reads_input else output * self._read_factors().astype(output.dtype)

    def update(self, linear: Linear) -> LinearUpdate:
        """Returns what the layer computes."""
        factors, bias = self._read_factors(), read_bias(linear)
        if self.reads_input:
            return LinearUpdate(inputs=factors, bias=bias)
        return LinearUpdate(outputs=factors, bias=None if bias is None else factors * bias)


def make(linears: Sequence[Linear], target: Target, settings: AdapterSettings, rngs: nnx.Rngs) -> list[IA3]:
    """Returns the adapters of a target's linear layers. New factors are 1."""
    del settings, rngs

    def make_factors(linear: Linear, dimension: int) -> nnx.Param[jax.Array]:
        ones = jnp.ones(target.shape(linear.kernel.shape[dimension - 2]), jnp.float32)
        return make_parameter(ones, Role(Kind.FACTOR, (tensor_axes(linear)[dimension],)))

    shared = make_factors(linears[0], 0)
    return [
        IA3(
            shared if target.reads_input else make_factors(linear, 1),
            make_constant(target.stack([float(rank > 0) for rank in target.ranks])),
            reads_input=target.reads_input,
        )
        for linear in linears
    ]


METHOD = Method(make=make, list_targets=lambda settings, presets: presets["ia3"], adapter=IA3)
