"""Multi-head attention within segments: dense, which runs everywhere, and kernels for TPUs and NVIDIA's GPUs."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.layers.dropout import DropoutSeed, draw_keep_mask_at


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    num_heads: int,
    causal: bool = False,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
) -> jax.Array:
    """Multi-head scaled dot-product attention within segments (Vaswani et al., 2017, equation 1).

    q, k, v: flat `[R * L, D]`, heads side by side in D. segment_ids: int32 `[R, L]`. Gives `[R * L, D]` of
    q's dtype; scores and softmax are float32. A position sees the positions of its row with the same
    segment id, with `causal` only those up to itself. Padding, segment 0, sees padding: finite, and nothing
    else sees it. Dropout at `rate` is applied to the weights, indexed `[R, H, L, L]` as (row, head, query,
    key); first_head: the number of the first head given here, others being another device's.
    """
    places = RowPieces.of_rows(*segment_ids.shape)
    return _at_places(q, k, v, segment_ids, places, num_heads, causal, rate, seed, site, first_head)


def dense_in_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    block_length: int,
    whole_row_period: int,
    num_heads: int,
    causal: bool = False,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
) -> jax.Array:
    """`dense` where segments cross multiples of `block` in each `every`-th row only, from the first on (0: in none).

    The same numbers, dropout included, from `block / L` of the scores. Where rows are some of those that `every`
    counts (microbatches), there may be more that are computed whole.
    """
    rows, length = segment_ids.shape
    places = RowPieces.of_rows(rows, length)
    period = math.gcd(whole_row_period, rows) if whole_row_period else 0
    options = (num_heads, causal, rate, seed, site, first_head)
    if period == 1:
        return _at_places(q, k, v, segment_ids, places, *options)
    if period == 0:
        return _at_places(
            q, k, v, segment_ids.reshape(-1, block_length), places.in_blocks(block_length), *options
        )

    def cut(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        """[rows * size, ...] -> its every `period`-th row, and the others, flat."""
        x = x.reshape(-1, period, size, *x.shape[1:])
        return x[:, 0].reshape(-1, *x.shape[3:]), x[:, 1:].reshape(-1, *x.shape[3:])

    (q, others_q), (k, others_k), (v, others_v) = (cut(x, length) for x in (q, k, v))
    ids, others_ids = cut(segment_ids.reshape(-1), length)
    whole, others = places.cut(period)
    mixed = _at_places(q, k, v, ids.reshape(-1, length), whole, *options)
    others = _at_places(
        others_q,
        others_k,
        others_v,
        others_ids.reshape(-1, block_length),
        others.in_blocks(block_length),
        *options,
    )
    mixed, others = (x.reshape(rows // period, -1, x.shape[-1]) for x in (mixed, others))
    return jnp.concatenate([mixed, others], axis=1).reshape(rows * length, -1)


class RowPieces(NamedTuple):
    """Where pieces of rows lie: which row they are of, where they begin in it, and how long it is."""

    row: np.ndarray  # uint32 [N]
    first: np.ndarray  # uint32 [N]
    length: int

    @classmethod
    def of_rows(cls, rows: int, length: int) -> "RowPieces":
        """Of whole rows."""
        return cls(np.arange(rows, dtype=np.uint32), np.zeros(rows, np.uint32), length)

    def in_blocks(self, block: int) -> "RowPieces":
        """Of each row's blocks."""
        count = self.length // block
        first = np.tile(np.arange(count, dtype=np.uint32) * block, len(self.row))
        return RowPieces(np.repeat(self.row, count), first.astype(np.uint32), self.length)

    def cut(self, period: int) -> tuple["RowPieces", "RowPieces"]:
        """Every `period`-th row, and the others."""
        others = np.arange(len(self.row)) % period > 0
        return tuple(RowPieces(self.row[some], self.first[some], self.length) for some in (~others, others))


def _at_places(q, k, v, segment_ids, places: RowPieces, num_heads, causal, rate, seed, site, first_head):
    """`dense` of pieces of rows, segment_ids `[N, L]`."""
    if seed is None or rate == 0.0:
        rate, seed = 0.0, None
    row, first = (jnp.asarray(x) for x in places[:2])
    of_masks = seed, jnp.asarray(site), row, first, jnp.asarray(first_head).astype(jnp.uint32)
    return _dense(q, k, v, segment_ids, of_masks, num_heads, causal, rate, places.length)


def _split_heads(x: jax.Array, rows: int, num_heads: int) -> jax.Array:
    """`[R * L, H * d]` -> `[R * H, L, d]`."""
    return (
        x.reshape(rows, -1, num_heads, x.shape[-1] // num_heads)
        .swapaxes(1, 2)
        .reshape(rows * num_heads, x.shape[0] // rows, -1)
    )


def _merge_heads(x: jax.Array, rows: int) -> jax.Array:
    """`[R * H, L, d]` -> `[R * L, H * d]`."""
    heads = x.reshape(rows, x.shape[0] // rows, *x.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows * x.shape[1], -1)


def _batched_dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product over two axes, batched over axis 0, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _dense(q, k, v, segment_ids, of_masks, num_heads, causal, rate, row_length):
    return _dense_forward(q, k, v, segment_ids, of_masks, num_heads, causal, rate, row_length)[0]


def _dense_forward(q, k, v, segment_ids, of_masks, num_heads, causal, rate, row_length):
    seed, site, row, first, first_head = of_masks
    rows, length = segment_ids.shape
    dtype = q.dtype
    scale = (q.shape[-1] // num_heads) ** -0.5
    q, k, v = (_split_heads(x, rows, num_heads) for x in (q * jnp.asarray(scale, dtype), k, v))
    scores = _batched_dot(q, k, 2, 2).reshape(rows, num_heads, length, length)
    visible = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    if causal:
        visible &= jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    # Every position sees at least itself, so the row's maximum is a real score and exp(min - max) is 0.
    # The barriers keep XLA:CPU from computing the exponentials again for each of their uses.
    powers = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    normalizer = 1.0 / powers.sum(axis=-1).reshape(rows * num_heads, length, 1)
    powers = jax.lax.optimization_barrier(powers.astype(dtype))
    kept = powers
    if seed is not None:
        # Of the weights [R, H, L, L] of whole rows, whatever pieces of them are computed here.
        shape = (rows, num_heads, length)
        head, query = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (1, 2))
        index = (first_head + head) * jnp.uint32(row_length) + query + first[:, None, None]
        row, first = (jnp.broadcast_to(x[:, None, None], shape).reshape(-1) for x in (row, first))
        mask = draw_keep_mask_at(row, index.reshape(-1), first, length, rate, seed, site)
        kept = jnp.where(
            mask.reshape(powers.shape), powers * jnp.asarray(1.0 / (1.0 - rate), dtype), jnp.zeros((), dtype)
        )
        kept = jax.lax.optimization_barrier(kept)
    powers, kept = (x.reshape(rows * num_heads, length, length) for x in (powers, kept))
    mixed = _merge_heads((_batched_dot(kept, v, 2, 1) * normalizer).astype(dtype), rows)
    return mixed, (q, k, v, powers, kept, normalizer, mixed)


def _dense_backward(num_heads, causal, rate, row_length, residuals, gradient):
    q, k, v, powers, kept, normalizer, mixed = residuals
    rows, dtype = q.shape[0] // num_heads, q.dtype
    # With p = powers * normalizer the weights and p' = kept * normalizer those after dropout:
    # dv = p'^T g and d(scores) = p' * (g v^T) - p * sum(g * mixed), the sum over a head's width.
    inner = _split_heads((gradient.astype(jnp.float32) * mixed), rows, num_heads).sum(axis=-1, keepdims=True)
    scaled = _split_heads(gradient, rows, num_heads) * normalizer
    scaled = jax.lax.optimization_barrier(scaled.astype(dtype))
    scores = kept * _batched_dot(scaled, v, 2, 2) - powers * (inner * normalizer)
    scores = jax.lax.optimization_barrier(scores.astype(dtype))
    width = q.shape[-1]
    dq = _batched_dot(scores, k, 2, 1) * width**-0.5
    # These two come out transposed, [R * H, d, L]: on CPU twice as fast as the direct products.
    dk, dv = _batched_dot(q, scores, 1, 1), _batched_dot(scaled, kept, 1, 1)
    dk, dv = dk.swapaxes(1, 2), dv.swapaxes(1, 2)
    return *(_merge_heads(x.astype(dtype), rows) for x in (dq, dk, dv)), None, None


_dense.defvjp(_dense_forward, _dense_backward)
