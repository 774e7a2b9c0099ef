"""Computes what scores of queries and keys are made of, for dense attention and for its chunks.

In shapes, N is the number of rows times heads, m the number of queries, n the number of keys, and d the width of a
head. Arrays by distance have m + n entries, for key - query from 1 - m to n - 1, and a last one that is 0.
"""

import jax
import jax.numpy as jnp

from jaxft.layers.attention.interface import RelativeTerms, Visibility
from jaxft.layers.linear import sum_columns


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


def cut_terms(
    relative: RelativeTerms | None, num_heads: int, queries: int, keys: int, offset: int | jax.Array
) -> RelativeTerms:
    """Returns the relative terms of some queries and keys, by distance.

    Args:
      relative: those of rows of L slots, or None.
      num_heads: H.
      queries, keys: m and n.
      offset: the slot of the first key minus that of the first query.

    Returns:
      The bias `[H, m + n]`; keys `[H, m + n, d]`; queries `[H, m + n, d]`, scaled as scores are, and by
      query - key from 1 - n to m - 1.
    """
    if relative is None:
        return RelativeTerms()

    def cut(x: jax.Array, axis: int) -> jax.Array:
        first = (x.shape[axis] + 1) // 2 - queries + offset
        return jax.lax.dynamic_slice_in_dim(x, first, queries + keys - 1, axis)

    def split(x: jax.Array) -> jax.Array:
        heads = x.reshape(queries + keys - 1, num_heads, -1).swapaxes(0, 1)
        return jnp.pad(heads, ((0, 0), (0, 1), (0, 0)))

    bias, by_keys, by_queries = relative
    if by_queries is not None:
        by_queries *= jnp.asarray(scale_of(by_queries.shape[1] // num_heads, relative), by_queries.dtype)
    return RelativeTerms(
        bias=None if bias is None else jnp.pad(cut(bias, 1), ((0, 0), (0, 1))),
        keys=None if by_keys is None else split(cut(by_keys, 0)),
        queries=None if by_queries is None else split(cut(by_queries, 0)[::-1]),
    )


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
    d_scores: jax.Array, d_q: jax.Array, d_k: jax.Array, q: jax.Array, k: jax.Array, terms: RelativeTerms
) -> tuple[jax.Array, jax.Array, RelativeTerms]:
    """Computes the gradients of what `add_terms` adds.

    Args:
      d_scores: the gradient of scores, `[N, m, n]`.
      d_q, d_k: the gradients of q and k so far.
      q, k, terms: as in `add_terms`.

    Returns:
      The gradients of q, k and terms.
    """
    count, d_bias, d_keys, d_queries = len(d_scores), None, None, None
    if terms.bias is not None:
        of_rows = d_scores.reshape(-1, len(terms.bias) * d_scores[0].size)
        of_pairs = sum_columns(of_rows).reshape(-1, *d_scores.shape[1:])
        d_bias = unskew(of_pairs).sum(axis=1).astype(terms.bias.dtype)
    if terms.keys is not None:
        by_distance = unskew(d_scores)
        d_q += batched_dot(by_distance, _repeat(terms.keys, count), 2, 1)
        d_keys = _sum_rows(batched_dot(by_distance, q, 1, 1), terms.keys)
    if terms.queries is not None:
        by_distance = unskew(d_scores.swapaxes(1, 2))
        d_k += batched_dot(by_distance, _repeat(terms.queries, count), 2, 1)
        d_queries = _sum_rows(batched_dot(by_distance, k, 1, 1), terms.queries)
    return d_q, d_k, RelativeTerms(d_bias, d_keys, d_queries)


def _repeat(x: jax.Array, count: int) -> jax.Array:
    """Repeats `[H, ...]` for all rows, `[count, ...]`."""
    return jnp.broadcast_to(x, (count // len(x), *x.shape)).reshape(count, *x.shape[1:])


def _sum_rows(x: jax.Array, terms: jax.Array) -> jax.Array:
    """Sums `[N, ...]` over rows, to the shape and dtype of `terms`, `[H, ...]`."""
    return x.reshape(-1, *terms.shape).sum(axis=0).astype(terms.dtype)


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
