"""Computes multi-head attention within segments by matrix products, which run on every platform."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.layers.attention.interface import EVERYTHING, RelativeTerms, Visibility
from jaxft.layers.attention.scores import (
    add_terms,
    batched_dot,
    cut_terms,
    differentiate_terms,
    find_visible,
    merge_heads,
    scale_of,
    split_heads,
    split_terms,
)
from jaxft.layers.dropout import DropoutSeed, draw_keep_mask_at


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    num_heads: int,
    visibility: Visibility = EVERYTHING,
    relative: RelativeTerms | None = None,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
    returns_totals: bool = False,
) -> Any:
    """Computes `Attention` on one device.

    Args:
      first_head: the global number of the first head here, if other devices compute the heads before it.
      returns_totals: whether to return the logarithms of the sums of exponentials too; see `prefix.py`.
      others: as in `Attention`.

    Returns:
      `[R * L, D]` in q's dtype; with `returns_totals`, a pair with `[R * L, H]`.
    """
    pieces = RowPieces.of_entire_rows(*segment_ids.shape)
    options = {"num_heads": num_heads, "visibility": visibility, "relative": relative, "rate": rate}
    options |= {"seed": seed, "site": site, "first_head": first_head, "returns_totals": returns_totals}
    return _attend_in_pieces(q, k, v, segment_ids, pieces, **options)


def dense_in_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    block_length: int,
    whole_row_period: int,
    num_heads: int,
    visibility: Visibility = EVERYTHING,
    relative: RelativeTerms | None = None,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
    returns_totals: bool = False,
) -> Any:
    """Computes `dense_attention` for rows whose segments mostly stay within blocks of `block_length` slots.

    The result is the same, dropout included. A row in blocks needs only `block_length / L` of the scores.

    Args:
      block_length: the slots of a block; divides L.
      whole_row_period: segments may cross blocks only in every `whole_row_period`-th row, counted from the first. These
        rows are computed whole. 0 means that no segment crosses blocks. If the rows are a microbatch with fewer rows
        than the period, more of them may be computed whole.
      others: as in `dense_attention`.

    Returns:
      As `dense_attention`.
    """
    rows, length = segment_ids.shape
    pieces = RowPieces.of_entire_rows(rows, length)
    period = math.gcd(whole_row_period, rows) if whole_row_period else 0
    attend = functools.partial(
        _attend_in_pieces,
        num_heads=num_heads,
        visibility=visibility,
        relative=relative,
        rate=rate,
        seed=seed,
        site=site,
        first_head=first_head,
        returns_totals=returns_totals,
    )
    if period == 1:
        return attend(q, k, v, segment_ids, pieces)
    if period == 0:
        return attend(q, k, v, segment_ids.reshape(-1, block_length), pieces.cut_into_blocks(block_length))

    def split_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Splits `[R * L, ...]` into every `period`-th row and the other rows, both flat."""
        x = x.reshape(-1, period, length, *x.shape[1:])
        return x[:, 0].reshape(-1, *x.shape[3:]), x[:, 1:].reshape(-1, *x.shape[3:])

    (whole_q, block_q), (whole_k, block_k), (whole_v, block_v) = (split_rows(x) for x in (q, k, v))
    whole_ids, block_ids = split_rows(segment_ids.reshape(-1))
    whole_rows, block_rows = pieces.split(period)
    from_whole_rows = attend(whole_q, whole_k, whole_v, whole_ids.reshape(-1, length), whole_rows)
    ids_of_blocks = block_ids.reshape(-1, block_length)
    from_blocks = attend(block_q, block_k, block_v, ids_of_blocks, block_rows.cut_into_blocks(block_length))

    def join_rows(*arrays: jax.Array) -> jax.Array:
        outputs = [x.reshape(rows // period, -1, x.shape[-1]) for x in arrays]
        return jnp.concatenate(outputs, axis=1).reshape(rows * length, -1)

    return jax.tree.map(join_rows, from_whole_rows, from_blocks)


class RowPieces(NamedTuple):
    """The places of N pieces of rows in a batch.

    Attributes:
      row: uint32 `[N]`, the row of each piece.
      first: uint32 `[N]`, the slot where each piece begins in its row.
      row_length: the number of slots in an entire row.
    """

    row: np.ndarray
    first: np.ndarray
    row_length: int

    @classmethod
    def of_entire_rows(cls, rows: int, length: int) -> "RowPieces":
        """Returns one piece for each of `rows` rows of `length` slots."""
        return cls(np.arange(rows, dtype=np.uint32), np.zeros(rows, np.uint32), length)

    def cut_into_blocks(self, block_length: int) -> "RowPieces":
        """Cuts entire rows into blocks of `block_length` slots, row after row."""
        count = self.row_length // block_length
        first = np.tile(np.arange(count, dtype=np.uint32) * block_length, len(self.row))
        return RowPieces(np.repeat(self.row, count), first.astype(np.uint32), self.row_length)

    def split(self, period: int) -> tuple["RowPieces", "RowPieces"]:
        """Splits entire rows into every `period`-th row and the other rows."""
        is_other = np.arange(len(self.row)) % period > 0
        return (
            RowPieces(self.row[~is_other], self.first[~is_other], self.row_length),
            RowPieces(self.row[is_other], self.first[is_other], self.row_length),
        )


class _MaskPlace(NamedTuple):
    """The traced arrays that the dropout mask of pieces' weights depends on."""

    seed: DropoutSeed | None
    site: jax.Array
    row: jax.Array  # uint32 [N], as in `RowPieces`
    first: jax.Array  # uint32 [N]
    first_head: jax.Array  # uint32


def _attend_in_pieces(
    q,
    k,
    v,
    segment_ids,
    pieces: RowPieces,
    *,
    num_heads,
    visibility,
    relative,
    rate,
    seed,
    site,
    first_head,
    returns_totals,
) -> Any:
    """Computes `dense_attention` for pieces of rows; segment_ids are `[N, length of a piece]`."""
    if seed is None or rate == 0.0:
        rate, seed = 0.0, None
    place = _MaskPlace(
        seed=seed,
        site=jnp.asarray(site),
        row=jnp.asarray(pieces.row),
        first=jnp.asarray(pieces.first),
        first_head=jnp.asarray(first_head).astype(jnp.uint32),
    )
    length = segment_ids.shape[1]
    terms = cut_terms(split_terms(relative, num_heads), length, length, 0)
    scale = scale_of(q.shape[1] // num_heads, relative)
    mixed, totals = _dense(
        q,
        k,
        v,
        terms,
        segment_ids,
        place,
        num_heads,
        visibility,
        rate,
        pieces.row_length,
        scale,
        returns_totals,
    )
    return (mixed, totals) if returns_totals else mixed


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9, 10, 11))
def _dense(
    q, k, v, terms, segment_ids, place, num_heads, visibility, rate, row_length, scale, returns_totals
):
    """Computes attention with a hand-written gradient, which keeps the weights before and after dropout.

    The terms are the same for all pieces.

    The exponentials mix the values before they are normalized; the output is normalized instead, because it has fewer
    numbers.
    """
    options = num_heads, visibility, rate, row_length, scale, returns_totals
    return _dense_forward(q, k, v, terms, segment_ids, place, *options)[0]


def _dense_forward(
    q, k, v, terms, segment_ids, place, num_heads, visibility, rate, row_length, scale, returns_totals
):
    rows, length = segment_ids.shape
    dtype = q.dtype
    q, k, v = (split_heads(x, rows, num_heads) for x in (q * jnp.asarray(scale, dtype), k, v))
    scores = add_terms(batched_dot(q, k, 2, 2), q, k, terms).reshape(rows, num_heads, length, length)
    visible = find_visible(segment_ids, segment_ids, 0, visibility)
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    # Every position sees at least itself. So each maximum is a real score, and exp(min - max) is 0.
    # The barriers prevent XLA:CPU from computing the exponentials again for each use.
    powers = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    normalizer = 1.0 / powers.sum(axis=-1).reshape(rows * num_heads, length, 1)
    powers = jax.lax.optimization_barrier(powers.astype(dtype))
    kept = powers
    if place.seed is not None:
        mask = _draw_weight_mask(place, powers.shape, rate, row_length)
        kept = jnp.where(mask, powers * jnp.asarray(1.0 / (1.0 - rate), dtype), jnp.zeros((), dtype))
        kept = jax.lax.optimization_barrier(kept)
    powers, kept = (x.reshape(rows * num_heads, length, length) for x in (powers, kept))
    mixed = merge_heads((batched_dot(kept, v, 2, 1) * normalizer).astype(dtype), rows)
    totals = None
    if returns_totals:
        totals = merge_heads(scores.max(axis=-1).reshape(normalizer.shape) - jnp.log(normalizer), rows)
    return (mixed, totals), (q, k, v, terms, powers, kept, normalizer, mixed)


def _dense_backward(num_heads, visibility, rate, row_length, scale, returns_totals, residuals, gradients):
    gradient, d_totals = gradients
    q, k, v, terms, powers, kept, normalizer, mixed = residuals
    rows, dtype = q.shape[0] // num_heads, q.dtype
    # Let p = powers * normalizer be the weights, and p' = kept * normalizer the weights after dropout. Then
    # dv = p'^T g, and d(scores) = p' * (g v^T) - p * sum(g * mixed), where the sum is over a head's width.
    inner = split_heads((gradient.astype(normalizer.dtype) * mixed), rows, num_heads).sum(
        axis=-1, keepdims=True
    )
    if returns_totals:  # the gradient of a total is that of each score times its weight
        inner -= split_heads(d_totals, rows, num_heads)
    scaled = split_heads(gradient, rows, num_heads) * normalizer
    scaled = jax.lax.optimization_barrier(scaled.astype(dtype))
    scores = kept * batched_dot(scaled, v, 2, 2) - powers * (inner * normalizer)
    scores = jax.lax.optimization_barrier(scores.astype(dtype))
    # These two products are transposed, [R * H, d, L], because that is twice as fast on CPU.
    dk, dv = (batched_dot(x, y, 1, 1).swapaxes(1, 2) for x, y in ((q, scores), (scaled, kept)))
    dq = batched_dot(scores, k, 2, 1)
    to_q, to_k, d_terms = differentiate_terms(scores, q, k, terms)
    dq, dk = dq if to_q is None else dq + to_q, dk if to_k is None else dk + to_k
    d_terms = jax.tree.map(lambda x, term: x.astype(term.dtype), d_terms, terms)
    return *(merge_heads(x.astype(dtype), rows) for x in (dq * scale, dk, dv)), d_terms, None, None


_dense.defvjp(_dense_forward, _dense_backward)


def _draw_weight_mask(
    place: _MaskPlace, shape: tuple[int, int, int, int], rate: float, row_length: int
) -> jax.Array:
    """Draws which attention weights of pieces dropout keeps, boolean `[N, H, length, length]`.

    The mask is always a part of the mask for entire rows, `[R, H, L, L]`. It does not depend on how rows are cut.
    """
    assert place.seed is not None  # without one, nothing is dropped
    leading = shape[:3]
    head, query = (jax.lax.broadcasted_iota(jnp.uint32, leading, axis) for axis in (1, 2))
    index = (place.first_head + head) * jnp.uint32(row_length) + query + place.first[:, None, None]
    row, first = (jnp.broadcast_to(x[:, None, None], leading).reshape(-1) for x in (place.row, place.first))
    mask = draw_keep_mask_at(row, index.reshape(-1), first, shape[3], rate, place.seed, place.site)
    return mask.reshape(shape)
