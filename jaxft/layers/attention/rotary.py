"""Turns queries and keys by angles that grow with their positions (RoPE, Su et al., 2021, section 3.2.2).

The product of a turned query and a turned key depends on the distance between their positions alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.layers.precision import widen


class Rotation(NamedTuple):
    """Angles by which the vectors at N positions are turned, of float32 or float64.

    Attributes:
      cos, sin: `[N, d / 2]`, for each position and each pair of a head's d features.
    """

    cos: jax.Array
    sin: jax.Array


def make_rotation(positions: jax.Array, head_width: int, theta: float, dtype: jnp.dtype) -> Rotation:
    """Returns the rotation at some positions. It is the same in all layers with this `theta`.

    Args:
      positions: int32 `[...]`, N in all.
      head_width: d, the width of a head, an even number.
      theta: pair k of d / 2 turns by `theta ** (-2 k / d)` radians from one position to the next.
      dtype: that of the vectors. Angles are float64 for float64, and float32 for all others.
    """
    dtype = jnp.promote_types(dtype, jnp.float32)
    exponents = jnp.arange(0, head_width, 2, dtype=dtype) / head_width
    angles = positions.reshape(-1, 1).astype(dtype) / theta**exponents
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: jax.Array, rotation: Rotation, num_heads: int) -> jax.Array:
    """Turns the vectors of all heads, `[N, D] -> [N, D]` of the same dtype, computed in float32 or float64.

    Feature k of a head is turned with feature k + d / 2, as in transformers.
    """
    heads = widen(x).reshape(len(x), num_heads, 2, -1)
    first, second = heads[:, :, 0], heads[:, :, 1]
    cos, sin = rotation.cos[:, None], rotation.sin[:, None]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=2)
    return turned.reshape(x.shape).astype(x.dtype)
