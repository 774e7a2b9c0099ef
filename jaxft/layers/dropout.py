"""Applies dropout whose masks are hashed from counters, so that they are the same on any mesh."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.layers.output_positions import OutputPositions

# The dropout sites of a backbone: 0 for the embeddings, then this many for each layer.
SITES_PER_LAYER = 3
# The site before a task's head. No backbone has enough layers to reach it.
HEAD_SITE = 1 << 16
# The first of sites of a backbone besides those of its layers.
SHARED_SITES = 1 << 15


class DropoutSeed(NamedTuple):
    """The part of a dropout mask's seed that a step sets. None instead of a seed means no dropout.

    Attributes:
      seed: uint32 scalar, different for each step.
      first_row: int32 scalar, the global index of the batch's first row. With it a row has the same masks, however the
        batch is split into microbatches.
    """

    seed: jax.Array
    first_row: jax.Array


def apply_dropout(
    x: jax.Array,
    rate: float,
    seed: DropoutSeed | None,
    site: int | jax.Array,
    *,
    rows: int | None = None,
    output_positions: OutputPositions | None = None,
) -> jax.Array:
    """Sets elements of x to zero with probability `rate` and divides the others by 1 - rate.

    Source: Srivastava et al., 2014. `draw_keep_mask` draws the mask. The backward pass draws it again instead of
    keeping it.

    Args:
      x: `[R, ...]`; or flat `[R * L, ...]`, with `rows`; or `[N, D]`, with `output_positions`.
      rate: in [0, 1).
      seed: None for no dropout.
      site: the number of the place in the network. Two places with the same number would share a mask.
      rows: R, if x is flat.
      output_positions: the positions of x's vectors in the flat `[R * L, D]`, if x does not hold all.

    Returns:
      The shape and dtype of x.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropout(x, seed, jnp.asarray(site), output_positions, rate, x.shape[0] if rows is None else rows)


class LayerDropout(NamedTuple):
    """Holds what is the same for all dropout of a layer of a backbone.

    Attributes:
      seed: the seed; None for no dropout.
      site: the first site of the layer.
      rows: the number of rows, R.
      slots: the number of vectors in these rows, R * L.
      output_positions: the positions that the layer returns; None for all.
    """

    seed: DropoutSeed | None
    site: int | jax.Array
    rows: int
    slots: int
    output_positions: OutputPositions | None


_layer_dropout: contextvars.ContextVar[LayerDropout | None] = contextvars.ContextVar(
    "layer_dropout", default=None
)


@contextlib.contextmanager
def layer_dropout(layer: LayerDropout) -> Iterator[None]:
    """Says, while a layer is traced, how `drop_adapter_input` makes its masks.

    Adapters get it this way because the networks that call the linear layers do not know that these have adapters.
    """
    token = _layer_dropout.set(layer)
    try:
        yield
    finally:
        _layer_dropout.reset(token)


def drop_adapter_input(x: jax.Array, rate: float, number: int) -> jax.Array:
    """Applies dropout to what an adapter reads. Adapters outside of layers have none.

    Args:
      x: the vectors, `[R * L, D]`; or `[N, D]` at the output positions; or another number, which all rows share.
      rate: in [0, 1).
      number: uint32, tells the adapter from others of the layer.
    """
    layer = _layer_dropout.get()
    if layer is None or layer.seed is None or rate == 0.0:
        return x
    seed = layer.seed._replace(seed=layer.seed.seed ^ jnp.uint32(number))
    if len(x) == layer.slots:
        return apply_dropout(x, rate, seed, layer.site, rows=layer.rows)
    if layer.output_positions is not None and len(x) == len(layer.output_positions.row):
        return apply_dropout(x, rate, seed, layer.site, output_positions=layer.output_positions)
    return apply_dropout(x, rate, seed._replace(first_row=jnp.int32(0)), layer.site, rows=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _dropout(x, seed, site, output_positions, rate, rows):
    if output_positions is None:
        mask = draw_keep_mask(x.shape, rate, seed, site, rows)
    else:
        row, index = output_positions.row, output_positions.slot
        mask = draw_keep_mask_at(row, index, jnp.uint32(0), x.shape[-1], rate, seed, site)
    return jnp.where(mask, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _dropout_forward(x, seed, site, output_positions, rate, rows):
    return _dropout(x, seed, site, output_positions, rate, rows), (seed, site, output_positions)


def _dropout_backward(rate, rows, residuals, gradient):
    return _dropout(gradient, *residuals, rate, rows), None, None, None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def draw_keep_mask(
    shape: tuple[int, ...], rate: float, seed: DropoutSeed, site: int | jax.Array, rows: int
) -> jax.Array:
    """Returns a boolean mask of `shape`, true with probability 1 - rate.

    The leading axes hold `rows` rows in row-major order (`[R, ...]` or flat `[R * L, ...]`). The mask is a hash of
    (seed, site, global row, index within the row). It has no state, is the same on any mesh, and is cheap enough to
    compute again in the backward pass.
    """
    *leading, last = shape
    per_row = math.prod(leading) // rows
    outer = jax.lax.iota(jnp.uint32, rows * per_row)
    row, index = outer // jnp.uint32(per_row), outer % jnp.uint32(per_row)
    return draw_keep_mask_at(row, index, jnp.uint32(0), last, rate, seed, site).reshape(shape)


def draw_keep_mask_at(
    row: jax.Array,
    index: jax.Array,
    first: jax.Array,
    size: int,
    rate: float,
    seed: DropoutSeed,
    site: int | jax.Array,
) -> jax.Array:
    """Returns `draw_keep_mask` for vectors at any places in their rows.

    Args:
      row: uint32 `[N]`, each vector's row in the batch.
      index: uint32 `[N]`, each vector's index within its row.
      first: uint32 `[N]` or a scalar, the first element of each vector to draw.
      size: the number of elements of each vector to draw.
      rate, seed, site: as in `apply_dropout`.

    Returns:
      A boolean mask `[N, size]`.
    """
    hashes = hash_vectors(row, index, seed, site) + first * jnp.uint32(0x9E3779B9)
    return draw_from_hashes(hashes[:, None], jax.lax.iota(jnp.uint32, size)[None, :], rate)


def draw_from_hashes(hashes: jax.Array, index: jax.Array, rate: float) -> jax.Array:
    """Returns which elements dropout keeps.

    Args:
      hashes: uint32, the hashes of the elements' vectors, from `hash_vectors`.
      index: uint32, the elements' indices in their vectors.
      rate: in [0, 1).

    Returns:
      A boolean array of the shape that `hashes` and `index` broadcast to.
    """
    return _mix(hashes + index * jnp.uint32(0x9E3779B9)) >= jnp.uint32(round(rate * 2**32))


def hash_vectors(row: jax.Array, index: jax.Array, seed: DropoutSeed, site: int | jax.Array) -> jax.Array:
    """Hashes vectors by their rows and their indices within the row: uint32 of the shape that both broadcast to."""
    row = row + jnp.asarray(seed.first_row).astype(jnp.uint32)
    # Odd constants with well-spread bits separate the fields. Each field is mixed before the next is added.
    h = _mix(jnp.asarray(seed.seed).astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    h = _mix(h + jnp.asarray(site).astype(jnp.uint32) * jnp.uint32(0x7FEB352D))
    h = _mix(h + row * jnp.uint32(0x846CA68B))
    return _mix(h + index * jnp.uint32(0xC2B2AE3D))


def hash_attention_weights(
    rows: int,
    num_heads: int,
    length: int,
    seed: DropoutSeed,
    site: int | jax.Array,
    first_head: int | jax.Array = 0,
) -> jax.Array:
    """Hashes the attention weights of each query, as dense attention does.

    Args:
      rows: R.
      num_heads: H, the heads of this device.
      length: L.
      seed, site: as in `apply_dropout`.
      first_head: the global number of the first head here, if other devices compute the heads before it.

    Returns:
      uint32 `[R, H, L]`.
    """
    row, head, query = (
        jax.lax.broadcasted_iota(jnp.uint32, (rows, num_heads, length), axis) for axis in range(3)
    )
    first = jnp.asarray(first_head).astype(jnp.uint32)
    return hash_vectors(row, (first + head) * jnp.uint32(length) + query, seed, site)


def _mix(h: jax.Array) -> jax.Array:
    """Applies MurmurHash3's finalizer (Appleby, 2016, fmix32): each bit of the result depends on all bits of `h`."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
