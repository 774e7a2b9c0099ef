"""Computes the gradient of a convolution's kernel by matrix products."""

import jax
import jax.numpy as jnp

from jaxft.layers.convolution.groups import multiply_pixels, split_rows

# The largest number of places of the output in a group of images, so that a group stays in a core's cache: images of
# 56 x 56 places are read one by one, those of 14 x 14 in groups of up to ten. Without groups the gradients of all
# kernels of ResNet-18 take 1.7 times as long.
GROUP_PLACES = 2048


def differentiate_kernel(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns the gradient of a convolution's kernel.

    For each place of the kernel it is the product of the pixels below that place with the gradient of the output. XLA's
    gradient is a convolution with a kernel as large as the image, which on CPU takes three to six times as long (3 x 3
    kernels, images of 28 and 56 places a side; benchmarks/images.py measures the entire step).

    Args:
      x: the input of the convolution, `[R, H, W, in]`. Zeros surround it, `size // 2` on each side.
      gradient: the gradient of the output, `[R, ceil(H / stride), ceil(W / stride), out]`.
      size: the height and width of the kernel, odd.
      stride: the distance of the places where the kernel is applied.

    Returns:
      `[size, size, in, out]` in x's dtype, summed in float32, or in float64 if x is.
    """
    _, height, width, out_channels = gradient.shape
    before, after = size // 2, size // 2 + stride  # `after` lets all shifted slices have the same shape
    padded = jnp.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])
    groups = [split_rows(array, GROUP_PLACES // (height * width)) for array in (padded, gradient)]
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)

    def add_group(number: jax.Array, total: jax.Array) -> jax.Array:
        inputs, gradients = (array[number] for array in groups)
        products = [
            multiply_pixels(
                inputs[:, top : top + height * stride : stride, left : left + width * stride : stride],
                gradients,
            )
            for top in range(size)
            for left in range(size)
        ]
        return total + jnp.stack(products)

    total = jnp.zeros((size * size, x.shape[-1], out_channels), sum_dtype)
    total = jax.lax.fori_loop(0, len(groups[0]), add_group, total)
    return total.reshape(size, size, *total.shape[1:]).astype(x.dtype)
