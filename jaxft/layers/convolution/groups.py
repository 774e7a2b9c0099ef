"""Splits the images of a batch into groups, whose products stay in a cache, and multiplies their pixels."""

import jax
import jax.numpy as jnp


def split_rows(x: jax.Array, limit: int) -> jax.Array:
    """Splits rows into groups of one size, the largest up to `limit`: `[R, ...] -> [groups, R / groups, ...]`."""
    rows = len(x)
    group = next((divisor for divisor in range(min(rows, limit), 1, -1) if rows % divisor == 0), 1)
    return x.reshape(rows // group, group, *x.shape[1:])


def multiply_pixels(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sums the outer products of the vectors of pixels, `[R, H, W, a], [R, H, W, b] -> [a, b]`, at least in float32.

    The pixels become one axis first: XLA would transpose an array to sum over several.
    """
    x, y = (array.reshape(-1, array.shape[-1]) for array in (x, y))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x.T, y, preferred_element_type=dtype)
