"""Computes what scores of queries and keys are made of, and which keys a query sees.

In shapes, N is the number of rows times heads, m the number of queries, n the number of keys, and d the width of a
head. Arrays by distance have m + n entries, for key - query from 1 - m to n - 1, and a last one that is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.layers.attention.interface import RelativeTerms, Visibility
from jaxft.layers.linear import sum_columns

HIDDEN = -1e30  # the score of a hidden position in kernels and chunks: its weight is 0


def split_heads(x: jax.Array, rows: int, num_heads: int) -> jax.Array:
    """Reorders `[R * L, H * d]` to `[R * H, L, d]`."""
    return (
        x.reshape(rows, -1, num_heads, x.shape[-1] // num_heads)
        .swapaxes(1, 2)
        .reshape(rows * num_heads, x.shape[0] // rows, -1)
    )


def merge_heads(x: jax.Array, rows: int) -> jax.Array:
    """Reorders `[R * H, L, d]` to `[R * L, H * d]`."""
    heads = x.reshape(rows, x.shape[0] // rows, *x.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows * x.shape[1], -1)


def batched_dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Multiplies over one axis of each, batched over axis 0, accumulated in at least float32."""
    dimensions = ((a_axis,), (b_axis,)), ((0,), (0,))
    return jax.lax.dot_general(
        a, b, dimensions, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32)
    )


def scale_of(width: int, relative: RelativeTerms | None) -> float:
    """Returns the factor of scores for heads of a width: see `relative` in `Attention`."""
    products = () if relative is None else (relative.keys, relative.queries)
    return (width * (1 + sum(x is not None for x in products))) ** -0.5


def find_visible(
    query_ids: jax.Array, key_ids: jax.Array, offset: int | jax.Array, visibility: Visibility
) -> jax.Array:
    """Returns which keys each query sees, boolean `[R, 1, m, n]`.

    Args:
      query_ids: int32 `[R, m]`, the segments of queries.
      key_ids: int32 `[R, n]`, the segments of keys.
      offset: the slot of the first key minus that of the first query.
      visibility: as in `Attention`.
    """
    visible = query_ids[:, None, :, None] == key_ids[:, None, None, :]
    shape = (query_ids.shape[1], key_ids.shape[1])
    query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    distance = key - query + offset
    if visibility.causal:
        visible &= distance <= 0
    if visibility.window is not None:
        visible &= jnp.abs(distance) <= visibility.window
    return visible


def find_ranges(segment_ids: jax.Array, size: int, visibility: Visibility, *, over_keys: bool) -> jax.Array:
    """Returns the slots that the queries of a chunk can see: from the first to the last, and those in between.

    Args:
      segment_ids: int32 `[R, L]`; padding, 0, is a segment too.
      size: the number of slots in a chunk. The last chunk of a row may be shorter.
      visibility: as in `Attention`.
      over_keys: True for the keys that chunks of queries see; False for the queries that see chunks of keys.

    Returns:
      int32 `[R, ceil(L / size), 2]`: the first slot, and the end.
    """
    rows, length = segment_ids.shape
    slot = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment_ids.shape)
    is_first = jnp.diff(segment_ids, axis=1, prepend=-1) != 0
    is_last = jnp.diff(segment_ids, axis=1, append=-1) != 0
    first = jax.lax.cummax(jnp.where(is_first, slot, 0), axis=1)
    end = jax.lax.cummin(jnp.where(is_last, slot + 1, length), axis=1, reverse=True)
    # Segments are contiguous, so a chunk sees from its first slot's first to its last slot's end.
    chunk = np.arange(0, length, size)
    last = np.minimum(chunk + size, length) - 1
    first, end = first[:, chunk], end[:, last]
    before, after = (visibility.window,) * 2 if visibility.window is not None else (length, length)
    if visibility.causal:
        before, after = (before, 0) if over_keys else (0, after)
    ranges = jnp.maximum(first, chunk - before), jnp.minimum(end, last + 1 + after)
    return jnp.stack(ranges, axis=-1).astype(jnp.int32)


def split_terms(relative: RelativeTerms | None, num_heads: int) -> RelativeTerms:
    """Splits relative terms into heads.

    Args:
      relative: those of rows of L slots, or None.
      num_heads: H.

    Returns:
      The bias `[H, 2 * L]`; keys `[H, 2 * L, d]`; queries `[H, 2 * L, d]`, scaled as scores are, and by
      query - key + L - 1. The last entries are 0.
    """
    if relative is None:
        return RelativeTerms()
    bias, keys, queries = relative.bias, relative.keys, relative.queries

    def split(x: jax.Array) -> jax.Array:
        heads = x.reshape(len(x), num_heads, -1).swapaxes(0, 1)
        return jnp.pad(heads, ((0, 0), (0, 1), (0, 0)))

    if queries is not None:
        scale = scale_of(queries.shape[1] // num_heads, relative)
        queries = split((queries * jnp.asarray(scale, queries.dtype))[::-1])
    return RelativeTerms(
        bias=None if bias is None else jnp.pad(bias, ((0, 0), (0, 1))),
        keys=None if keys is None else split(keys),
        queries=queries,
    )


def cut_terms(terms: RelativeTerms, m: int, n: int, offset: int | jax.Array) -> RelativeTerms:
    """Returns the terms of m queries and n keys: arrays of m + n distances, of which the last is not read.

    Args:
      terms: from `split_terms`.
      m, n: the numbers of queries and keys.
      offset: the slot of the first key minus that of the first query.
    """

    def cut(x: jax.Array | None, first: int | jax.Array) -> jax.Array | None:
        return None if x is None else jax.lax.dynamic_slice_in_dim(x, first, m + n, axis=1)

    by_key, by_query = _first_distances(terms, m, n, offset)
    return RelativeTerms(cut(terms.bias, by_key), cut(terms.keys, by_key), cut(terms.queries, by_query))


def add_to_terms(
    terms: RelativeTerms, part: RelativeTerms, m: int, n: int, offset: int | jax.Array
) -> RelativeTerms:
    """Adds `part`, arrays as `cut_terms` returns them, to the terms."""

    def add(x: jax.Array | None, added: jax.Array | None, first: int | jax.Array) -> jax.Array | None:
        if x is None or added is None:
            return None
        total = jax.lax.dynamic_slice_in_dim(x, first, m + n, axis=1) + added
        return jax.lax.dynamic_update_slice_in_dim(x, total, first, axis=1)

    by_key, by_query = _first_distances(terms, m, n, offset)
    return RelativeTerms(
        add(terms.bias, part.bias, by_key),
        add(terms.keys, part.keys, by_key),
        add(terms.queries, part.queries, by_query),
    )


def _first_distances(
    terms: RelativeTerms, m: int, n: int, offset: int | jax.Array
) -> tuple[int | jax.Array, int | jax.Array]:
    """Returns where the distances of m queries and n keys begin in bias and keys, and in queries."""
    length = max((x.shape[1] // 2 for x in terms if x is not None), default=0)
    return length - m + offset, length - n - offset


def add_terms(scores: jax.Array, q: jax.Array, k: jax.Array, terms: RelativeTerms) -> jax.Array:
    """Adds relative terms to scores.

    Args:
      scores: `[N, m, n]`.
      q: scaled queries, `[N, m, d]`.
      k: keys, `[N, n, d]`.
      terms: from `cut_terms`.
    """
    count, m, n = scores.shape
    if terms.bias is not None:
        bias = skew(jnp.broadcast_to(terms.bias[:, None], (len(terms.bias), m, m + n)))
        scores = (scores.reshape(-1, *bias.shape) + bias.astype(scores.dtype)).reshape(scores.shape)
    if terms.keys is not None:
        scores += skew(batched_dot(q, _repeat(terms.keys, count), 2, 2))
    if terms.queries is not None:
        scores += skew(batched_dot(k, _repeat(terms.queries, count), 2, 2)).swapaxes(1, 2)
    return scores


def differentiate_terms(
    d_scores: jax.Array, q: jax.Array, k: jax.Array, terms: RelativeTerms
) -> tuple[jax.Array | None, jax.Array | None, RelativeTerms]:
    """Computes the gradients of what `add_terms` adds.

    Args:
      d_scores: the gradient of scores, `[N, m, n]`.
      q, k, terms: as in `add_terms`.

    Returns:
      The gradients of q and k, None if nothing depends on them, and those of terms, in at least float32.
    """
    count, d_q, d_k = len(d_scores), None, None
    d_bias = d_keys = d_queries = None
    if terms.bias is not None:
        of_rows = d_scores.reshape(-1, len(terms.bias) * d_scores[0].size)
        of_pairs = sum_columns(of_rows).reshape(-1, *d_scores.shape[1:])
        d_bias = unskew(of_pairs).sum(axis=1)
    if terms.keys is not None:
        by_distance = unskew(d_scores)
        d_q = batched_dot(by_distance, _repeat(terms.keys, count), 2, 1)
        d_keys = _sum_products(q, by_distance, len(terms.keys))
    if terms.queries is not None:
        by_distance = unskew(d_scores.swapaxes(1, 2))
        d_k = batched_dot(by_distance, _repeat(terms.queries, count), 2, 1)
        d_queries = _sum_products(k, by_distance, len(terms.queries))
    return d_q, d_k, RelativeTerms(d_bias, d_keys, d_queries)


def _repeat(x: jax.Array, count: int) -> jax.Array:
    """Repeats `[H, ...]` for all rows, `[count, ...]`."""
    return jnp.broadcast_to(x, (count // len(x), *x.shape)).reshape(count, *x.shape[1:])


def _sum_products(x: jax.Array, by_distance: jax.Array, num_heads: int) -> jax.Array:
    """Sums over rows and slots the products of x `[N, m, d]` with `[N, m, m + n]`, to `[H, m + n, d]`."""
    # It is transposed, because that is twice as fast on CPU. XLA must not turn it: it would lose that, and then cannot
    # run products of bfloat16.
    products = jax.lax.optimization_barrier(batched_dot(x, by_distance, 1, 1))
    return products.reshape(-1, num_heads, *products.shape[1:]).sum(axis=0).swapaxes(1, 2)


def skew(x: jax.Array) -> jax.Array:
    """Returns the values of each query and key from those of each query and distance, `[..., m, m + n] -> [..., m, n]`.

    Rows of m + n that are read as rows of m + n - 1 begin one column earlier each time. This and its gradient need
    neither a gather nor a scatter, which are slow on accelerators.
    """
    *leading, m, size = x.shape
    shifted = x.reshape(*leading, m * size)[..., : m * (size - 1)].reshape(*leading, m, size - 1)
    return shifted[..., m - 1 :]


def unskew(x: jax.Array) -> jax.Array:
    """Returns the values of each query and distance from those of each query and key: the transpose of `skew`."""
    *leading, m, n = x.shape
    no_padding = [(0, 0)] * len(leading)
    shifted = jnp.pad(x, (*no_padding, (0, 0), (m - 1, 0))).reshape(*leading, m * (m + n - 1))
    return jnp.pad(shifted, (*no_padding, (0, m))).reshape(*leading, m, m + n)
