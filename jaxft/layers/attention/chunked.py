"""Computes attention by chunks of queries and of keys, for long rows: memory grows with their length."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.layers.attention.flops import choose_chunks, named_loop
from jaxft.layers.attention.interface import EVERYTHING, RelativeTerms, Visibility
from jaxft.layers.attention.scores import (
    HIDDEN,
    add_terms,
    add_to_terms,
    batched_dot,
    cut_terms,
    differentiate_terms,
    find_ranges,
    find_visible,
    scale_of,
    split_terms,
)
from jaxft.layers.dropout import DropoutSeed, draw_from_hashes, hash_attention_weights


def chunked_attention(
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
    """Computes `Attention` on one device, and holds the scores of one chunk of queries and keys at a time.

    The algorithm is flash attention's (Dao, 2023), in XLA's operations. A chunk of queries meets only the keys from the
    first to the last that its segments and `visibility` let it see. The backward pass computes scores again.

    Args:
      first_head: the global number of the first head here, if other devices compute the heads before it.
      returns_totals: whether to return the logarithms of the sums of exponentials too; see `prefix.py`.
      others: as in `Attention`.

    Returns:
      `[R * L, D]` in q's dtype; with `returns_totals`, a pair with `[R * L, H]`.
    """
    rows, length = segment_ids.shape
    hashes = None
    if seed is not None and rate:
        hashes = hash_attention_weights(rows, num_heads, length, seed, site, first_head)
    scale = scale_of(q.shape[1] // num_heads, relative)
    plan = _Plan(*choose_chunks(length, visibility), visibility, rate, returns_totals)
    q, k, v = (
        x.reshape(rows, length, num_heads, -1).swapaxes(1, 2) for x in (q * jnp.asarray(scale, q.dtype), k, v)
    )
    arrays = _Arrays(segment_ids, hashes, find_ranges(segment_ids, plan.queries, visibility, over_keys=True))
    mixed, totals = _attend(q, k, v, split_terms(relative, num_heads), arrays, plan)
    mixed = mixed.swapaxes(1, 2).reshape(rows * length, -1)
    return (mixed, totals.swapaxes(1, 2).reshape(rows * length, -1)) if returns_totals else mixed


class _Plan(NamedTuple):
    """The constants of a computation.

    Attributes:
      queries, keys, most_trips: as in `Chunks`.
      visibility, rate: as in `Attention`.
      returns_totals: as in `chunked_attention`.
    """

    queries: int
    keys: int
    most_trips: int
    visibility: Visibility
    rate: float
    returns_totals: bool


class _Arrays(NamedTuple):
    """The arrays of rows that decide what is seen and what dropout keeps."""

    segment_ids: jax.Array  # int32 [R, L]
    hashes: jax.Array | None  # uint32 [R, H, L]; None for no dropout
    ranges: jax.Array  # int32 [R, chunks of queries, 2]: the first key that is seen, and the end


class _Chunk(NamedTuple):
    """Some neighbouring slots of a row.

    Chunks have equal sizes. The last one of a row begins where it fits, and its first slots may be those of the chunk
    before it.

    Attributes:
      row: the row.
      first: the first slot.
      first_new: the first slot that no chunk before has.
      size: the number of slots.
    """

    row: jax.Array
    first: jax.Array
    first_new: jax.Array
    size: int

    @property
    def slots(self) -> jax.Array:
        """Returns the slots, int32 `[size]`."""
        return self.first + jnp.arange(self.size, dtype=jnp.int32)

    @property
    def is_new(self) -> jax.Array:
        """Returns which slots no chunk before has, boolean `[size]`."""
        return self.slots >= self.first_new

    def cut(self, x: jax.Array, axis: int = 1) -> jax.Array:
        """Returns the chunk's part of `[R, ..., L, ...]`, without the axis of rows; `axis` is that of slots in it."""
        return jax.lax.dynamic_slice_in_dim(x[self.row], self.first, self.size, axis)

    def add(self, x: jax.Array, part: jax.Array, axis: int = 1) -> jax.Array:
        """Adds to the chunk's part."""
        place = [jnp.int32(0)] * x.ndim
        place[0], place[axis + 1] = self.row, self.first
        return jax.lax.dynamic_update_slice(x, (self.cut(x, axis) + part)[None], place)


def _loop_over_queries(arrays: _Arrays, plan: _Plan, body: Callable[[_Chunk, Any], Any], state: Any) -> Any:
    """Returns the state after `body(chunk of queries, state)` for all chunks of all rows."""
    rows, length = arrays.segment_ids.shape
    count = arrays.ranges.shape[1]

    def step(index, state):
        index = jnp.asarray(index, jnp.int32)
        row, first = index // count, index % count * plan.queries
        return body(_Chunk(row, jnp.minimum(first, length - plan.queries), first, plan.queries), state)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(rows * count), step, state)


def _loop_over_keys(
    queries: _Chunk, arrays: _Arrays, plan: _Plan, body: Callable[[_Chunk, Any], Any], state: Any
) -> Any:
    """Returns the state after `body(chunk of keys, state)` for all chunks of keys that `queries` see."""
    length = arrays.segment_ids.shape[1]
    begin, end = arrays.ranges[queries.row, queries.first_new // plan.queries]

    def step(index, state):
        first = begin + index * plan.keys
        return body(_Chunk(queries.row, jnp.minimum(first, length - plan.keys), first, plan.keys), state)

    if plan.most_trips == 1:
        return step(0, state)
    with named_loop(plan.most_trips):
        return jax.lax.fori_loop(jnp.int32(0), (end - begin + plan.keys - 1) // plan.keys, step, state)


def _compute_scores(q, k, terms: RelativeTerms, queries: _Chunk, keys: _Chunk, arrays: _Arrays, plan: _Plan):
    """Returns the scores of a chunk of queries and keys, `[H, queries, keys]`."""
    scores = add_terms(batched_dot(q, k, 2, 2), q, k, terms)
    query_ids, key_ids = (chunk.cut(arrays.segment_ids, 0)[None] for chunk in (queries, keys))
    visible = find_visible(query_ids, key_ids, keys.first - queries.first, plan.visibility)[0]
    return jnp.where(visible & keys.is_new, scores, HIDDEN)


def _drop(x: jax.Array, queries: _Chunk, keys: _Chunk, arrays: _Arrays, plan: _Plan) -> jax.Array:
    """Applies dropout to weights `[H, queries, keys]`, or to their gradients."""
    if arrays.hashes is None:
        return x
    hashes = queries.cut(arrays.hashes)[..., None]
    mask = draw_from_hashes(hashes, keys.slots.astype(jnp.uint32), plan.rate)
    return jnp.where(mask, x * jnp.asarray(1.0 / (1.0 - plan.rate), x.dtype), jnp.zeros((), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q, k, v, terms, arrays, plan):
    """Computes attention of heads, `[R, H, L, d]`, with a hand-written gradient, for scaled queries."""
    return _forward(q, k, v, terms, arrays, plan)[0]


def _forward(q, k, v, terms, arrays, plan):
    """Computes attention and, for the backward pass, the logarithm of each query's sum of exponentials."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    heads, width = q.shape[1], q.shape[3]

    def attend(queries: _Chunk, outputs):
        q_here = queries.cut(q)

        def meet(keys: _Chunk, state):
            out, top, total = state
            terms_here = cut_terms(terms, plan.queries, plan.keys, keys.first - queries.first)
            scores = _compute_scores(q_here, keys.cut(k), terms_here, queries, keys, arrays, plan)
            # Until a query sees a key, the weights of hidden scores add up. Its first real score sets the sum to 0.
            new_top = jnp.maximum(top, scores.max(axis=-1))
            shrink, powers = jnp.exp(top - new_top), jnp.exp(scores - new_top[..., None])
            powers = jax.lax.optimization_barrier(powers)
            total = total * shrink + powers.sum(axis=-1)
            kept = _drop(powers, queries, keys, arrays, plan).astype(q.dtype)
            return out * shrink[..., None] + batched_dot(kept, keys.cut(v), 2, 1), new_top, total

        nothing = jnp.zeros((heads, plan.queries, width), dtype)
        state = nothing, jnp.full(nothing.shape[:2], HIDDEN, dtype), nothing[..., 0]
        out, top, total = _loop_over_keys(queries, arrays, plan, meet, state)
        mixed, log_total = outputs
        mixed = queries.add(mixed, jnp.where(queries.is_new[:, None], out / total[..., None], 0.0))
        return mixed, queries.add(log_total, jnp.where(queries.is_new, top + jnp.log(total), 0.0))

    outputs = jnp.zeros(q.shape, dtype), jnp.zeros(q.shape[:3], dtype)
    mixed, log_total = _loop_over_queries(arrays, plan, attend, outputs)
    mixed = mixed.astype(q.dtype)
    totals = log_total if plan.returns_totals else None
    return (mixed, totals), (q, k, v, terms, arrays, mixed, log_total)


def _backward(plan, residuals, gradients):
    """Computes the gradients from scores that are computed again."""
    gradient, d_totals = gradients
    q, k, v, terms, arrays, mixed, log_total = residuals
    dtype = log_total.dtype
    inner = (gradient.astype(dtype) * mixed).sum(axis=-1)
    if plan.returns_totals:  # the gradient of a total is that of each score times its weight
        inner -= d_totals

    def attend(queries: _Chunk, gradients):
        q_here, gradient_here, inner_here, log_total_here = (
            queries.cut(x) for x in (q, gradient, inner, log_total)
        )
        # Products whose first factor is transposed already are half as fast again on CPU.
        q_columns, gradient_columns = (x.swapaxes(1, 2) for x in (q_here, gradient_here))

        def meet(keys: _Chunk, state):
            d_q, d_k, d_v, d_terms = state
            offset = keys.first - queries.first
            k_here, v_here = keys.cut(k), keys.cut(v)
            terms_here = cut_terms(terms, plan.queries, plan.keys, offset)
            scores = _compute_scores(q_here, k_here, terms_here, queries, keys, arrays, plan)
            weights = jnp.exp(scores - log_total_here[..., None])
            weights = jax.lax.optimization_barrier(jnp.where(queries.is_new[:, None], weights, 0.0))
            kept = _drop(weights, queries, keys, arrays, plan).astype(q.dtype)
            d_weights = _drop(batched_dot(gradient_here, v_here, 2, 2), queries, keys, arrays, plan)
            d_scores = (weights * (d_weights - inner_here[..., None])).astype(q.dtype)
            d_scores = jax.lax.optimization_barrier(d_scores)
            to_q, to_k, to_terms = differentiate_terms(d_scores, q_here, k_here, terms_here)
            d_q_here, d_k_here = batched_dot(d_scores, k_here, 2, 1), batched_dot(q_columns, d_scores, 2, 1)
            if to_q is not None:
                d_q_here += to_q
            if to_k is not None:
                # Without the barrier XLA turns a product of bfloat16, which it then cannot run on CPU.
                d_k_here += jax.lax.optimization_barrier(to_k).swapaxes(1, 2)
            return (
                d_q + d_q_here,
                keys.add(d_k, d_k_here, 2),
                keys.add(d_v, batched_dot(gradient_columns, kept, 2, 1), 2),
                add_to_terms(d_terms, to_terms, plan.queries, plan.keys, offset),
            )

        d_q, *others = gradients
        d_q_here, *others = _loop_over_keys(
            queries, arrays, plan, meet, (jnp.zeros(q_here.shape, dtype), *others)
        )
        return queries.add(d_q, d_q_here), *others

    columns = jnp.zeros(q.swapaxes(2, 3).shape, dtype)
    d_terms = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), terms)
    sums = jnp.zeros(q.shape, dtype), columns, columns, d_terms
    d_q, d_k, d_v, d_terms = _loop_over_queries(arrays, plan, attend, sums)
    d_terms = jax.tree.map(lambda x, term: x.astype(term.dtype), d_terms, terms)
    return *(x.astype(q.dtype) for x in (d_q, d_k.swapaxes(2, 3), d_v.swapaxes(2, 3))), d_terms, None


_attend.defvjp(_forward, _backward)
