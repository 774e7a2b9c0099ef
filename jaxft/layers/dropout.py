"""The parts that transformers are built of beside attention: linear, norm, embedding, activations, dropout."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.layers.output_positions import OutputPositions


class DropoutSeed(NamedTuple):
    """What a dropout mask depends on besides its site; None in its place means no dropout.

    `seed` is a uint32 scalar, different for each step. `first_row` is an int32 scalar: the global index of
    the batch's first row, so that a row keeps its masks however the batch is split into microbatches.
    """

    seed: jax.Array
    first_row: jax.Array


def _mix(h: jax.Array) -> jax.Array:
    """Finalizer of MurmurHash3 (Appleby, 2016, fmix32): uint32 -> uint32, each bit depends on all bits."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def keep_mask(
    shape: tuple[int, ...], rate: float, seed: DropoutSeed, site: int | jax.Array, rows: int
) -> jax.Array:
    """Boolean mask of `shape`, True with probability 1 - rate.

    The leading axes hold `rows` rows in row-major order (`[R, ...]` or flat `[R * L, ...]`). An element's
    value depends on (seed, site, global row, index within the row) only: a counter-based hash, cheap enough
    to compute again in the backward pass, with no state and the same on any mesh.
    """
    *leading, last = shape
    per_row = math.prod(leading) // rows
    outer = jax.lax.iota(jnp.uint32, rows * per_row)
    row, index = outer // jnp.uint32(per_row), outer % jnp.uint32(per_row)
    return keep_mask_at(row, index, jnp.uint32(0), last, rate, seed, site).reshape(shape)


def keep_mask_at(
    row: jax.Array, index: jax.Array, first: jax.Array, last: int, rate: float, seed: DropoutSeed, site
) -> jax.Array:
    """`keep_mask` of vectors that lie anywhere: boolean `[N, last]`.

    row: uint32 `[N]`, of the batch. index: uint32 `[N]`, of the vector within its row. first: uint32 `[N]` or a
    scalar, where what is asked for begins in its vector.
    """
    hashes = vector_hashes(row, index, seed, site) + first * jnp.uint32(0x9E3779B9)
    return keep_from_hashes(hashes[:, None], jax.lax.iota(jnp.uint32, last)[None, :], rate)


def vector_hashes(row: jax.Array, index: jax.Array, seed: DropoutSeed, site: int | jax.Array) -> jax.Array:
    """uint32, of the shape that `row` and `index` broadcast to: what `kept` draws a vector's mask from."""
    row = row + jnp.asarray(seed.first_row).astype(jnp.uint32)
    # Odd constants with well-spread bits keep the fields apart; each is mixed before the next is added.
    h = _mix(jnp.asarray(seed.seed).astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    h = _mix(h + jnp.asarray(site).astype(jnp.uint32) * jnp.uint32(0x7FEB352D))
    h = _mix(h + row * jnp.uint32(0x846CA68B))
    return _mix(h + index * jnp.uint32(0xC2B2AE3D))


def keep_from_hashes(hashes: jax.Array, place: jax.Array, rate: float) -> jax.Array:
    """Boolean, of the shape that `hashes` and `place`, both uint32, broadcast to; place: that in the vector."""
    return _mix(hashes + place * jnp.uint32(0x9E3779B9)) >= jnp.uint32(round(rate * 2**32))


def apply_dropout(
    x: jax.Array,
    rate: float,
    seed: DropoutSeed | None,
    site: int | jax.Array,
    *,
    rows: int | None = None,
    output_positions: OutputPositions | None = None,
) -> jax.Array:
    """Sets elements of `x` to zero with probability `rate` and divides the others by 1 - rate.

    `x` is `[R, ...]`, or flat `[R * L, ...]` with `rows=R`, or `output_positions` vectors of that. `site` numbers the place in
    the network; two places with one number would share a mask. The mask is `keep_mask`'s; it is not kept for the
    backward pass but hashed again there. Source: Srivastava et al., 2014.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropout(x, seed, jnp.asarray(site), output_positions, rate, x.shape[0] if rows is None else rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _dropout(x, seed, site, output_positions, rate, rows):
    if output_positions is None:
        mask = keep_mask(x.shape, rate, seed, site, rows)
    else:
        mask = keep_mask_at(
            output_positions.row, output_positions.index, jnp.uint32(0), x.shape[-1], rate, seed, site
        )
    return jnp.where(mask, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _dropout_forward(x, seed, site, output_positions, rate, rows):
    return _dropout(x, seed, site, output_positions, rate, rows), (seed, site, output_positions)


def _dropout_backward(rate, rows, residuals, gradient):
    return _dropout(gradient, *residuals, rate, rows), None, None, None


_dropout.defvjp(_dropout_forward, _dropout_backward)
