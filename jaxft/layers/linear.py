"""Applies linear layers, whose bias has a hand-written gradient, and which may have an adapter."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.parameters import SPLIT_BY_FSDP, Kind, Role, make_parameter
from jaxft.layers.precision import widen
from jaxft.parallel.sharded_matmul import ActivationLayout, sharded_matmul


class Adapter(Protocol):
    """Changes what a linear layer computes, by parameters of its own. It is a module of flax."""

    def adapt_input(self, x: jax.Array) -> jax.Array:
        """Returns what the layer reads in place of x, `[..., in]`; x itself if the adapter leaves it as it is."""

    def finish(self, x: jax.Array, product: jax.Array, linear: "Linear") -> jax.Array:
        """Returns the layer's output, `[..., out]`.

        Args:
          x: `[..., in]`, which the layer has read.
          product: `[..., out]`, the product of x and the layer's kernel.
          linear: the layer.
        """


class Linear(nnx.Module):
    """A linear layer, `x @ kernel + bias`, computed in x's dtype: `[..., in] -> [..., out]`.

    Parameters are float32; the kernel is `[in, out]`. `adapter` is None unless `jaxft.adapters` has given it one.

    Args:
      in_features, out_features: the widths of input and output.
      initializer_range: the standard deviation of the new kernel; the new bias is 0.
      use_bias: whether there is a bias.
      layout: the layout of x over devices, if x is `[N, in]`; None on one device.
      axes: the axes of the mesh that split the kernel: "fsdp" in one dimension, and "tensor" or None in the other; see
        `sharded_matmul`.
      reads_all_positions, reads_tokens: as in `Role`.
    """

    adapter: Adapter | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initializer_range: float,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        layout: ActivationLayout | None = None,
        axes: tuple[str | None, str | None] = SPLIT_BY_FSDP,
        reads_all_positions: bool = False,
        reads_tokens: bool = True,
    ):
        initializer = nnx.initializers.normal(initializer_range)
        kernel = initializer(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = make_parameter(kernel, Role(Kind.KERNEL, axes, reads_all_positions, reads_tokens))
        if use_bias:
            bias_axes = ("tensor",) if axes[1] == "tensor" else ()
            self.bias = make_parameter(jnp.zeros((out_features,), jnp.float32), Role(Kind.BIAS, bias_axes))
        self.use_bias = use_bias
        self.layout = layout
        self.fsdp_dimension = axes.index("fsdp")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, `[..., in] -> [..., out]`."""
        return apply_linears(x, self)[0]

    def add_bias(self, product: jax.Array) -> jax.Array:
        """Returns a product of the kernel, `[..., out]`, plus the bias if there is one."""
        return add_bias(product, self.bias[...]) if self.use_bias else product


def apply_linears(x: jax.Array, *linears: Linear) -> list[jax.Array]:
    """Applies several linear layers to the same x, so that devices exchange its gradient only once.

    The layers may differ only in the values of their parameters.

    Args:
      x: `[..., in]`.
      linears: the layers.

    Returns:
      `[..., out]` in x's dtype for each layer.
    """
    inputs = [x if linear.adapter is None else linear.adapter.adapt_input(x) for linear in linears]
    if all(layer_input is x for layer_input in inputs):
        return _apply(x, linears)
    return [_apply(layer_input, [linear])[0] for layer_input, linear in zip(inputs, linears, strict=True)]


def _apply(x: jax.Array, linears: Sequence[Linear]) -> list[jax.Array]:
    """Applies linear layers to what they read, `[..., in]`; see `apply_linears`."""
    first = linears[0]
    kernels = [linear.kernel[...].astype(x.dtype) for linear in linears]
    products = sharded_matmul(x, kernels, first.layout, first.fsdp_dimension)
    return [
        linear.add_bias(product) if linear.adapter is None else linear.adapter.finish(x, product, linear)
        for product, linear in zip(products, linears, strict=True)
    ]


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a float32 bias `[D]` to x `[..., D]` in x's dtype. The gradient of the bias is summed in float32.

    jax's own gradient would sum bfloat16 gradients in bfloat16, row by row.
    """
    return x + bias.astype(x.dtype)


add_bias.defvjp(
    lambda x, bias: (add_bias(x, bias), None),
    lambda _, gradient: (gradient, sum_columns(gradient.reshape(-1, gradient.shape[-1]))),
)


def sum_columns(x: jax.Array) -> jax.Array:
    """Returns the sum over rows, `[N, D]` of any float dtype -> `[D]`, in float32, or in float64 if x is."""

    def multiply(x: jax.Array) -> jax.Array:  # on CPU XLA runs products on all cores, but not reductions
        return jnp.matmul(jnp.ones((1, len(x)), x.dtype), x, precision=jax.lax.Precision.HIGHEST)[0]

    return jax.lax.platform_dependent(widen(x), cpu=multiply, default=lambda x: x.sum(axis=0))
