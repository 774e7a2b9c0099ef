"""Pools pictures, whose channels are the last axis."""

import jax
import jax.numpy as jnp

from jaxft.layers.precision import widen


def max_pool(x: jax.Array, *, size: int, stride: int) -> jax.Array:
    """Returns the largest value of each channel in windows of a side `size`, odd, whose distance is `stride`.

    Windows reach over the edge by `size // 2`.

    Args:
      x: `[R, H, W, C]`.

    Returns:
      `[R, ceil(H / stride), ceil(W / stride), C]`.
    """
    padding = (size // 2, size // 2)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        [(0, 0), padding, padding, (0, 0)],
    )


def average_pool(x: jax.Array) -> jax.Array:
    """Returns the mean of each channel over the picture, `[R, H, W, C] -> [R, C]`, summed in float32."""
    return widen(x).mean(axis=(1, 2)).astype(x.dtype)
