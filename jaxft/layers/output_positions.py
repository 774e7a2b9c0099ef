"""Selects the positions that a loss reads, so that the last layer of a backbone computes only these."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OutputPositions(NamedTuple):
    """The positions of N vectors of a flat `[R * L, D]` array.

    Attributes:
      flat: int32 `[N]`, the index of each vector in the flat array, without repetition.
      row: uint32 `[N]`, the row of each vector.
      index: uint32 `[N]`, the index of each vector within its row.
    """

    flat: jax.Array
    row: jax.Array
    index: jax.Array


def select_positions(output_mask: jax.Array | None, count: int) -> OutputPositions | None:
    """Selects `count` positions: first those where the mask is True, then others.

    Args:
      output_mask: boolean `[R, L]`, or None.
      count: the number of positions to select.

    Returns:
      The positions. None stands for all positions: without a mask, for a count of 0, and if the count covers all.
    """
    if output_mask is None or not 0 < count < output_mask.size:
        return None
    flat = jnp.argsort(~output_mask.ravel(), stable=True)[:count].astype(jnp.int32)
    return OutputPositions(flat, *jnp.divmod(flat.astype(jnp.uint32), jnp.uint32(output_mask.shape[1])))


def gather(x: jax.Array, positions: OutputPositions | None) -> jax.Array:
    """Takes the vectors at `positions`, `[R * L, D] -> [N, D]`; all vectors if `positions` is None."""
    if positions is None:
        return x
    return x.at[positions.flat].get(unique_indices=True, mode="promise_in_bounds")


def scatter(x: jax.Array, positions: OutputPositions | None, count: int) -> jax.Array:
    """Undoes `gather`: `[N, D] -> [count, D]`, with zeros at all other positions."""
    if positions is None:
        return x
    zeros = jnp.zeros((count, x.shape[-1]), x.dtype)
    return zeros.at[positions.flat].set(x, unique_indices=True, mode="promise_in_bounds")
