"""Selects the positions that a loss reads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OutputPositions(NamedTuple):
    """Some of the vectors of flat `[R * L, D]`: which, int32 `[N]`, of which row and where in it, uint32."""

    flat: jax.Array
    row: jax.Array
    index: jax.Array


def gather(x: jax.Array, of: OutputPositions | None) -> jax.Array:
    """`[R * L, D] -> [N, D]`, the vectors `of` it, or all."""
    return x if of is None else x.at[of.flat].get(unique_indices=True, mode="promise_in_bounds")


def scatter(x: jax.Array, of: OutputPositions | None, count: int) -> jax.Array:
    """Undoes `some`: `[N, D]` -> `[count, D]`, 0 where there was none."""
    if of is None:
        return x
    zeros = jnp.zeros((count, x.shape[-1]), x.dtype)
    return zeros.at[of.flat].set(x, unique_indices=True, mode="promise_in_bounds")


def select_positions(output_mask: jax.Array | None, most: int) -> OutputPositions | None:
    """`most` vectors, among them those where `output_mask`, boolean `[R, L]`, is true; None, which is all, for `most` 0."""
    if output_mask is None or not 0 < most < output_mask.size:
        return None
    flat = jnp.argsort(~output_mask.ravel(), stable=True)[:most].astype(jnp.int32)
    return OutputPositions(flat, *jnp.divmod(flat.astype(jnp.uint32), jnp.uint32(output_mask.shape[1])))
