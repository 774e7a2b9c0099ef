"""Pools images, whose channels are the last axis."""

import functools

import jax
import jax.numpy as jnp

from jaxft.layers.precision import widen


@functools.partial(jax.checkpoint, static_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns the largest value of each channel in square windows, which reach over the edge by `size // 2`.

    It compares shifted images, along one side and then along the other. The gradient of XLA's own windows takes eight
    times as long on a CPU, 0.18 s instead of 0.02 s for 8 images of 112 x 112 x 64.

    Args:
      x: `[R, H, W, C]`.
      size: the side of a window, odd.
      stride: the distance of windows.

    Returns:
      `[R, ceil(H / stride), ceil(W / stride), C]`. If several values of a window are the largest, they share its
      gradient.
    """
    for axis in (1, 2):
        count, padding = -(-x.shape[axis] // stride), [(0, 0)] * 4
        padding[axis] = (size // 2, size // 2 + stride)
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        shifted = (
            jax.lax.slice_in_dim(padded, first, first + count * stride, stride, axis) for first in range(size)
        )
        x = functools.reduce(jnp.maximum, shifted)
    return x


def average_pool(x: jax.Array) -> jax.Array:
    """Returns the mean of each channel over the image, `[R, H, W, C] -> [R, C]`, summed in float32."""
    return widen(x).mean(axis=(1, 2)).astype(x.dtype)
