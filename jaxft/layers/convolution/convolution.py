"""Convolves images, whose channels are the last axis."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.layers.convolution import winograd
from jaxft.layers.convolution.kernel_gradient import differentiate_kernel
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.runtime import Runtime

SPLIT_CHANNELS = (None, None, None, "fsdp")  # of a kernel
WINOGRAD_SIDE = 14  # of the smallest images that Winograd's method convolves; with 7 places XLA is quicker


class Convolution(nnx.Module):
    """A convolution without a bias, `[R, H, W, in] -> [R, ceil(H / stride), ceil(W / stride), out]`, in x's dtype.

    The kernel is float32 `[size, size, in, out]`. Zeros surround the image, `size // 2` on each side.

    Args:
      in_channels, out_channels: the widths of input and output.
      size: the height and width of the kernel, odd.
      stride: the distance of the places where the kernel is applied.
      uses: the number of these places in an image.
      runtime: how the network computes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        stride: int,
        uses: int,
        runtime: Runtime,
        rngs: nnx.Rngs,
    ):
        # He et al. (2015), section 2.2, for gradients that keep their size.
        initializer = nnx.initializers.normal((2 / (size * size * out_channels)) ** 0.5)
        kernel = initializer(rngs.params(), (size, size, in_channels, out_channels), jnp.float32)
        self.kernel = make_parameter(kernel, Role(Kind.KERNEL, SPLIT_CHANNELS, uses=uses))
        self.size, self.stride, self.runtime = size, stride, runtime

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x, `[R, H, W, in] -> [R, ceil(H / stride), ceil(W / stride), out]`."""
        kernel = gather_kernel(self.kernel[...], self.runtime).astype(x.dtype)
        if self.size == 1:  # on CPU the gradient of this product takes half of the time of a convolution's
            x = x[:, :: self.stride, :: self.stride]
            return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
        if self.runtime.activations is None:
            return _convolve(x, kernel, self.stride)
        return _convolve_by_xla(x, kernel, self.stride)  # devices share the rows of its gradient


def gather_kernel(kernel: jax.Array, runtime: Runtime) -> jax.Array:
    """Gathers a kernel that devices share, so that each device convolves its rows alone."""
    if runtime.activations is None:
        return kernel
    return jax.lax.with_sharding_constraint(kernel, NamedSharding(runtime.activations.mesh, PartitionSpec()))


def _convolve_by_xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves x `[R, H, W, in]` with a kernel `[size, size, in, out]`; its gradients are XLA's too."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(len(kernel) // 2, len(kernel) // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, stride):
    """Convolves as `_convolve_by_xla`. On CPU products compute it and its gradients, where they are quicker."""
    by_xla = functools.partial(_convolve_by_xla, stride=stride)
    if not _suits_winograd(x, kernel, stride):
        return by_xla(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=by_xla)


def _convolve_forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _convolve_backward(stride, residuals, gradient):
    x, kernel = residuals

    def differentiate_x_by_xla(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _convolve_by_xla(x, kernel, stride), x)(gradient)[0]

    def differentiate_kernel_by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _convolve_by_xla(x, kernel, stride), kernel)(gradient)[0]

    if _suits_winograd(x, kernel, stride):
        d_x = jax.lax.platform_dependent(
            kernel, gradient, cpu=winograd.differentiate_input, default=differentiate_x_by_xla
        )
        differentiate_by_products = winograd.differentiate_kernel
    else:
        d_x = differentiate_x_by_xla(kernel, gradient)
        differentiate_by_products = functools.partial(differentiate_kernel, size=len(kernel), stride=stride)
    return d_x, jax.lax.platform_dependent(
        x, gradient, cpu=differentiate_by_products, default=differentiate_kernel_by_xla
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _suits_winograd(x: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Says whether Winograd's method computes a convolution of x on CPU, or XLA; it is not exact enough in 16 bits."""
    is_wide = x.dtype in (jnp.float32, jnp.float64)
    return is_wide and len(kernel) == 3 and stride == 1 and min(x.shape[1:3]) >= WINOGRAD_SIDE
