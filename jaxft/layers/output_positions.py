"""Selects the positions that a loss reads, so that a backbone's last layer computes only these."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OutputPositions(NamedTuple):
    """Positions of some of the vectors of a flat `[R * L, D]`.

    Attributes:
      flat: int32 `[N]`, each vector's index in the flat array; all differ.
      row: uint32 `[N]`, its row.
      index: uint32 `[N]`, its index within the row.
    """

    flat: jax.Array
    row: jax.Array
    index: jax.Array


def select_positions(output_mask: jax.Array | None, count: int) -> OutputPositions | None:
    """Selects `count` positions, first those where the boolean `[R, L]` mask is true; None stands for all positions.

    It returns None without a mask, for a count of 0, and where the count covers all positions.
    """
    if output_mask is None or not 0 < count < output_mask.size:
        return None
    flat = jnp.argsort(~output_mask.ravel(), stable=True)[:count].astype(jnp.int32)
    return OutputPositions(flat, *jnp.divmod(flat.astype(jnp.uint32), jnp.uint32(output_mask.shape[1])))


def gather(x: jax.Array, positions: OutputPositions | None) -> jax.Array:
    """Takes the vectors at `positions`, `[R * L, D] -> [N, D]`; all if it is None."""
    if positions is None:
        return x
    return x.at[positions.flat].get(unique_indices=True, mode="promise_in_bounds")


def scatter(x: jax.Array, positions: OutputPositions | None, count: int) -> jax.Array:
    """Undoes `gather`: `[N, D] -> [count, D]`, 0 at all other positions."""
    if positions is None:
        return x
    zeros = jnp.zeros((count, x.shape[-1]), x.dtype)
    return zeros.at[positions.flat].set(x, unique_indices=True, mode="promise_in_bounds")
