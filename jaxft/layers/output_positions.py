"""Gathers the positions that a loss reads, so that the last layer of a backbone computes only these."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OutputPositions(NamedTuple):
    """The positions of N vectors of a flat `[R * L, D]` array. The array is made up of G groups of consecutive vectors.

    Each device has whole groups, so no vector moves from one device to another.

    Attributes:
      in_group: int32 `[G, N / G]`, the index of each vector within its group, without repetition.
      row: uint32 `[N]`, the row of each vector.
      slot: uint32 `[N]`, the index of each vector within its row.
    """

    in_group: jax.Array
    row: jax.Array
    slot: jax.Array


def locate(in_group: jax.Array | None, rows: int, length: int) -> OutputPositions | None:
    """Returns the positions with these indices, int32 `[G, N / G]`, in `[rows * length, D]`; None stands for all."""
    if in_group is None:
        return None
    groups, _ = in_group.shape
    first_row = jnp.arange(groups, dtype=jnp.uint32)[:, None] * jnp.uint32(rows // groups)
    row, slot = jnp.divmod(in_group.astype(jnp.uint32), jnp.uint32(length))
    return OutputPositions(in_group, (first_row + row).ravel(), slot.ravel())


def gather(x: jax.Array, positions: OutputPositions | None) -> jax.Array:
    """Takes the vectors at `positions`, `[R * L, D] -> [N, D]`; all vectors if `positions` is None."""
    if positions is None:
        return x
    groups, size = len(positions.in_group), x.shape[-1]
    return jax.vmap(_gather)(x.reshape(groups, -1, size), positions.in_group).reshape(-1, size)


def _gather(x: jax.Array, indices: jax.Array) -> jax.Array:
    return x.at[indices].get(unique_indices=True, mode="promise_in_bounds")


def scatter(x: jax.Array, positions: OutputPositions | None, count: int) -> jax.Array:
    """Undoes `gather`: `[N, D] -> [count, D]`, with zeros at all other positions."""
    if positions is None:
        return x
    groups, size = len(positions.in_group), x.shape[-1]
    zeros = jnp.zeros((count // groups, size), x.dtype)
    scattered = jax.vmap(
        lambda x, indices: zeros.at[indices].set(x, unique_indices=True, mode="promise_in_bounds")
    )(x.reshape(groups, -1, size), positions.in_group)
    return scattered.reshape(count, size)
