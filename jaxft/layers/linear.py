"""Applies linear layers, whose bias has a hand-written gradient, and which may have an adapter.

A kernel that adapters have frozen may be compressed: it is then bfloat16, or int8 with a scale for each column.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.parameters import SPLIT_BY_FSDP, Kind, Role, make_parameter
from jaxft.layers.precision import widen
from jaxft.parallel.sharded_matmul import ActivationLayout, CompressedKernel, Kernel, sharded_matmul


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

    Parameters are float32; the kernel is `[in, out]`. `adapter` is None unless `jaxft.adapters` has given it one, which
    may also have called `compress`.

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
    is_compressed: bool = False
    kernel_scale: nnx.Param[jax.Array] | None = None  # float32 `[out]`, of the columns of an int8 kernel

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
            bias = jnp.zeros((out_features,), jnp.float32)
            self.bias = make_parameter(bias, Role(Kind.BIAS, _split_columns(axes)))
        self.use_bias = use_bias
        self.layout = layout
        self.fsdp_dimension = axes.index("fsdp")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, `[..., in] -> [..., out]`."""
        return apply_linears(x, self)[0]

    def compress(self, dtype: jnp.dtype) -> None:
        """Makes the kernel, which is no longer trained, one of bfloat16 or int8; see `compress_matrix`."""
        role = self.kernel.get_metadata()["role"]
        kernel, scale = compress_matrix(self.kernel[...], dtype)
        self.kernel = make_parameter(kernel, role)
        if scale is not None:
            self.kernel_scale = make_parameter(scale, Role(Kind.CONSTANT, _split_columns(role.axes)))
        self.is_compressed = True

    def expand(self) -> None:
        """Undoes `compress`, but for the rounding."""
        if self.is_compressed:
            self.kernel = make_parameter(self.read_kernel(), self.kernel.get_metadata()["role"])
            del self.is_compressed
            if self.kernel_scale is not None:
                del self.kernel_scale

    def read_kernel(self) -> jax.Array:
        """Returns the kernel, or the float32 values of a compressed one: `[in, out]`, or a stack of these."""
        if not self.is_compressed:
            return self.kernel[...]
        return expand_matrix(self.kernel[...], None if self.kernel_scale is None else self.kernel_scale[...])

    def kernel_for(self, x: jax.Array) -> Kernel:
        """Returns the kernel in the form in which it is multiplied with x."""
        if not self.is_compressed:
            return self.kernel[...].astype(x.dtype)
        return CompressedKernel(
            self.kernel[...], None if self.kernel_scale is None else self.kernel_scale[...]
        )

    def add_bias(self, product: jax.Array) -> jax.Array:
        """Returns a product of the kernel, `[..., out]`, plus the bias if there is one."""
        return add_bias(product, self.bias[...]) if self.use_bias else product


def compress_matrix(matrix: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array | None]:
    """Rounds a float32 matrix, `[in, out]` or a stack of these, to bfloat16 or int8.

    Returns:
      The matrix, and the scales of the columns of an int8 matrix: float32 `[out]`, or a stack of these. The largest
      value of each column is then 127 or -127.
    """
    if dtype != jnp.int8:
        return matrix.astype(dtype), None
    scale = jnp.max(jnp.abs(matrix), axis=-2) / 127
    scale = jnp.where(scale > 0, scale, 1.0)
    return jnp.round(matrix / scale[..., None, :]).astype(dtype), scale


def expand_matrix(matrix: jax.Array, scale: jax.Array | None) -> jax.Array:
    """Returns a compressed matrix in float32; see `compress_matrix`."""
    return widen(matrix) if scale is None else matrix * scale[..., None, :]


def _split_columns(axes: tuple[str | None, ...]) -> tuple[str, ...]:
    """Returns the axes of the mesh that split a vector with a value for each column of a kernel, for those of this."""
    return ("tensor",) if axes[1] == "tensor" else ()


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
    are_alike = len({linear.is_compressed for linear in linears}) == 1
    if are_alike and all(layer_input is x for layer_input in inputs):
        return _apply(x, linears)
    return [_apply(layer_input, [linear])[0] for layer_input, linear in zip(inputs, linears, strict=True)]


def _apply(x: jax.Array, linears: Sequence[Linear]) -> list[jax.Array]:
    """Applies linear layers to what they read, `[..., in]`; see `apply_linears`."""
    first = linears[0]
    kernels = [linear.kernel_for(x) for linear in linears]
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
