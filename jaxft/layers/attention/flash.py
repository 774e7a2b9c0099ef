"""Computes flash attention within segments, with dropout, by Pallas kernels for one NVIDIA GPU."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxft.layers.attention.interface import EVERYTHING, RelativeTerms, Visibility
from jaxft.layers.attention.limits import FLASH_BLOCK
from jaxft.layers.attention.scores import HIDDEN, find_ranges
from jaxft.layers.dropout import DropoutSeed, draw_from_hashes, hash_attention_weights


def flash_attention(
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
    interpret: bool = False,
) -> jax.Array:
    """Computes `Attention` without relative terms on one device, and holds one block of scores at a time.

    The kernels skip blocks of queries and keys that have no segment in common, or are further apart than the window.
    Time therefore grows with the lengths of the segments and not with the square of the row's length. The forward and
    backward passes are FlashAttention-2's (Dao, 2023). cuDNN's and jax's kernels would compute all blocks and cannot
    draw this mask.

    Args:
      q, k, v: flat `[R * L, D]`. L is a multiple of `FLASH_BLOCK`, and the width of a head is a power of two.
      first_head: the global number of the first head here, if other devices compute the heads before it.
      interpret: runs the kernels on any platform, slowly, for tests.
      others: as in `Attention`; `relative` is not used.

    Returns:
      `[R * L, D]` in q's dtype.
    """
    del relative
    hashes = None
    if seed is not None and rate:
        hashes = hash_attention_weights(
            len(segment_ids), num_heads, segment_ids.shape[1], seed, site, first_head
        )
    return _flash(q, k, v, segment_ids, hashes, num_heads, visibility, rate, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _flash(q, k, v, segment_ids, hashes, num_heads, visibility, rate, interpret):
    return _forward(q, k, v, segment_ids, hashes, num_heads, visibility, rate, interpret)[0]


def _forward(q, k, v, segment_ids, hashes, num_heads, visibility, rate, interpret):
    """Computes attention and, for the backward pass, the logarithm of each query's sum of exponentials."""
    grid = _Grid(q, segment_ids, num_heads, visibility, rate, interpret)
    inputs = [*_query_inputs(grid, q, k, v), ("block_values", hashes)]
    out, log_total = grid.run(_forward_kernel, inputs, [("block", q.dtype), ("block_values", jnp.float32)])
    return out, (q, k, v, segment_ids, hashes, out, log_total)


def _backward(num_heads, visibility, rate, interpret, residuals, gradient):
    """Computes the gradient of queries in one kernel, and the gradients of keys and values in another."""
    q, k, v, segment_ids, hashes, out, log_total = residuals
    grid = _Grid(q, segment_ids, num_heads, visibility, rate, interpret)
    inputs = [
        *_query_inputs(grid, q, k, v),
        ("block", out),
        ("block", gradient),
        ("block_values", log_total),
        ("block_values", hashes),
    ]
    dq, inner = grid.run(_queries_kernel, inputs, [("block", q.dtype), ("block_values", jnp.float32)])
    inputs = [
        ("range", grid.block_ranges(over_keys=False)),
        ("block", k),
        ("block", v),
        ("row", q),
        ("row", gradient),
        ("ids", segment_ids),
        ("row_values", log_total),
        ("row_values", inner),
        ("row_values", hashes),
    ]
    dk, dv = grid.run(_keys_kernel, inputs, [("block", k.dtype), ("block", v.dtype)])
    return dq, dk, dv, None, None


_flash.defvjp(_forward, _backward)


def _query_inputs(grid: "_Grid", q, k, v) -> list[tuple[str, jax.Array]]:
    """Returns the first inputs of the two kernels that loop over the keys of a block of queries."""
    ranges = grid.block_ranges(over_keys=True)
    return [("range", ranges), ("block", q), ("row", k), ("row", v), ("ids", grid.segment_ids)]


class _Kind(NamedTuple):
    """The shape of an array, and the piece of it that each program of a kernel sees."""

    array_shape: tuple[int, ...]
    seen_shape: tuple[int | None, ...]  # the piece that one program sees; None drops an axis
    locate: Callable[..., tuple[Any, ...]]  # maps a program's block, head and row to the index of its piece


class _Grid:
    """The programs of a kernel, one for each block of positions, head and row, and the pieces of arrays they see."""

    def __init__(self, q, segment_ids, num_heads: int, visibility: Visibility, rate: float, interpret: bool):
        self.rows, self.length = segment_ids.shape
        self.segment_ids, self.visibility, self.rate, self.interpret = (
            segment_ids,
            visibility,
            rate,
            interpret,
        )
        self.num_heads, self.width = num_heads, q.shape[-1] // num_heads
        rows, length, block, width = self.rows, self.length, FLASH_BLOCK, self.width
        self.shape = (length // block, num_heads, rows)
        flat, values = (rows, length, num_heads * width), (rows, num_heads, length)
        self.kinds = {
            # A vector for each position of the program's block, or of its entire row, for its head.
            "block": _Kind(flat, (None, block, width), lambda i, h, r: (r, i, h)),
            "row": _Kind(flat, (None, length, width), lambda i, h, r: (r, 0, h)),
            # A number for each position of the block, or of the row, for its head.
            "block_values": _Kind(values, (None, None, block), lambda i, h, r: (r, h, i)),
            "row_values": _Kind(values, (None, None, length), lambda i, h, r: (r, h, 0)),
            # A number for each position of the row.
            "ids": _Kind((rows, length), (None, length), lambda i, h, r: (r, 0)),
            # Two numbers for the block.
            "range": _Kind((rows, length // block, 2), (None, None, 2), lambda i, h, r: (r, i, 0)),
        }

    def run(
        self,
        kernel: Callable[..., None],
        inputs: Sequence[tuple[str, jax.Array | None]],
        outputs: Sequence[tuple[str, jnp.dtype]],
    ) -> list[jax.Array]:
        """Runs `kernel` on all programs.

        Args:
          kernel: called with a reference for each input and output, and `grid`.
          inputs: (kind, array) pairs; pairs whose array is None are left out.
          outputs: (kind, dtype) pairs.

        Returns:
          An array for each output; arrays of kind "block" are flat, `[R * L, D]`.
        """
        present = [(kind, x) for kind, x in inputs if x is not None]
        results = pl.pallas_call(
            functools.partial(kernel, grid=self),
            grid=self.shape,
            in_specs=[self._block_spec(kind) for kind, _ in present],
            out_specs=[self._block_spec(kind) for kind, _ in outputs],
            out_shape=[jax.ShapeDtypeStruct(self.kinds[kind].array_shape, dtype) for kind, dtype in outputs],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=self.interpret,
            name="flash" + kernel.__name__,
        )(*(x.reshape(self.kinds[kind].array_shape) for kind, x in present))
        flat = (self.rows * self.length, -1)
        return [
            x.reshape(flat) if kind == "block" else x for x, (kind, _) in zip(results, outputs, strict=True)
        ]

    def _block_spec(self, kind: str) -> pl.BlockSpec:
        return pl.BlockSpec(self.kinds[kind].seen_shape, self.kinds[kind].locate)

    def block_ranges(self, *, over_keys: bool) -> jax.Array:
        """Returns the range of blocks that each block shares a segment with, as far as windows reach.

        Args:
          over_keys: True for the blocks of keys that a block of queries sees; False for the blocks of queries that see
            a block of keys.

        Returns:
          int32 `[R, L / block, 2]`: the first block, and the end.
        """
        ranges = find_ranges(self.segment_ids, FLASH_BLOCK, self.visibility, over_keys=over_keys)
        return jnp.stack([ranges[..., 0] // FLASH_BLOCK, -(-ranges[..., 1] // FLASH_BLOCK)], axis=-1)

    def scale(self, products: jax.Array) -> jax.Array:
        """Scales products of queries and keys to scores, which are exponents of two."""
        return products * (self.width**-0.5 * math.log2(math.e))

    def visible(self, query_ids, key_ids, first_query, first_key) -> jax.Array:
        """Returns which keys each query sees, boolean `[queries, keys]`."""
        seen = query_ids[:, None] == key_ids[None, :]
        place = jnp.arange(FLASH_BLOCK)
        distance = (first_key + place)[None, :] - (first_query + place)[:, None]
        if self.visibility.causal:
            seen &= distance <= 0
        if self.visibility.window is not None:
            seen &= jnp.abs(distance) <= self.visibility.window
        return seen

    def dropout_factors(self, hashes, first_key) -> jax.Array:
        """Returns the dropout factors of attention weights, `[queries, keys]`: 0 for a weight that is dropped."""
        keys = (first_key + jnp.arange(FLASH_BLOCK)).astype(jnp.uint32)
        return jnp.where(
            draw_from_hashes(hashes[:, None], keys[None, :], self.rate), 1.0 / (1.0 - self.rate), 0.0
        )


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Multiplies two matrices over one axis of each, summed in float32."""
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)


def _forward_kernel(range_ref, q_ref, k_ref, v_ref, ids_ref, *refs, grid: _Grid):
    """Computes attention for a block of queries, with running maxima and sums over blocks of keys."""
    *hash_ref, out_ref, log_total_ref = refs
    block = FLASH_BLOCK
    first_query = pl.program_id(0) * block
    q, query_ids = q_ref[...], ids_ref[pl.ds(first_query, block)]
    hashes = hash_ref[0][...] if hash_ref else None

    def body(index, carry):
        out, top, total = carry
        keys = pl.ds(index * block, block)
        scores = grid.scale(_dot(q, k_ref[keys, :], 1, 1))
        seen = grid.visible(query_ids, ids_ref[keys], first_query, index * block)
        scores = jnp.where(seen, scores, HIDDEN)
        # Until a query sees a key, the weights of hidden scores add up. The query's first real score sets the sum to 0.
        new_top = jnp.maximum(top, scores.max(axis=1))
        shrink, powers = jnp.exp2(top - new_top), jnp.exp2(scores - new_top[:, None])
        total = total * shrink + powers.sum(axis=1)
        if hashes is not None:
            powers *= grid.dropout_factors(hashes, index * block)
        out = out * shrink[:, None] + _dot(powers.astype(q.dtype), v_ref[keys, :], 1, 0)
        return out, new_top, total

    start = (
        jnp.zeros((block, grid.width), jnp.float32),
        jnp.full((block,), HIDDEN, jnp.float32),
        jnp.zeros((block,), jnp.float32),
    )
    out, top, total = jax.lax.fori_loop(range_ref[0], range_ref[1], body, start)
    out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
    log_total_ref[...] = top + jnp.log2(total)


def _queries_kernel(
    range_ref, q_ref, k_ref, v_ref, ids_ref, out_ref, gradient_ref, log_total_ref, *refs, grid: _Grid
):
    """Computes the gradient of a block of queries, and the sums over output times gradient that it needs."""
    *hash_ref, dq_ref, inner_ref = refs
    block = FLASH_BLOCK
    first_query = pl.program_id(0) * block
    q, gradient, log_total = q_ref[...], gradient_ref[...], log_total_ref[...]
    query_ids = ids_ref[pl.ds(first_query, block)]
    hashes = hash_ref[0][...] if hash_ref else None
    inner = jnp.sum(out_ref[...].astype(jnp.float32) * gradient.astype(jnp.float32), axis=1)
    inner_ref[...] = inner

    def body(index, dq):
        keys = pl.ds(index * block, block)
        k = k_ref[keys, :]
        seen = grid.visible(query_ids, ids_ref[keys], first_query, index * block)
        scores = grid.scale(_dot(q, k, 1, 1))
        weights = jnp.where(seen, jnp.exp2(scores - log_total[:, None]), 0.0)
        d_weights = _dot(gradient, v_ref[keys, :], 1, 1)
        if hashes is not None:
            d_weights *= grid.dropout_factors(hashes, index * block)
        d_scores = weights * (d_weights - inner[:, None])
        return dq + _dot(d_scores.astype(k.dtype), k, 1, 0)

    dq = jax.lax.fori_loop(range_ref[0], range_ref[1], body, jnp.zeros((block, grid.width), jnp.float32))
    dq_ref[...] = (dq * grid.width**-0.5).astype(dq_ref.dtype)


def _keys_kernel(
    range_ref, k_ref, v_ref, q_ref, gradient_ref, ids_ref, log_total_ref, inner_ref, *refs, grid: _Grid
):
    """Computes the gradients of a block of keys and their values."""
    *hash_ref, dk_ref, dv_ref = refs
    block = FLASH_BLOCK
    first_key = pl.program_id(0) * block
    k, v, key_ids = k_ref[...], v_ref[...], ids_ref[pl.ds(first_key, block)]

    def body(index, carry):
        dk, dv = carry
        queries = pl.ds(index * block, block)
        q, gradient = q_ref[queries, :], gradient_ref[queries, :]
        # All matrices are transposed, [keys, queries], because the next products need them so.
        seen = grid.visible(ids_ref[queries], key_ids, index * block, first_key).T
        scores = grid.scale(_dot(k, q, 1, 1))
        weights = jnp.where(seen, jnp.exp2(scores - log_total_ref[queries][None, :]), 0.0)
        d_weights, kept = _dot(v, gradient, 1, 1), weights
        if hash_ref:
            factors = grid.dropout_factors(hash_ref[0][queries], first_key).T
            d_weights, kept = d_weights * factors, kept * factors
        d_scores = weights * (d_weights - inner_ref[queries][None, :])
        dk += _dot(d_scores.astype(q.dtype), q, 1, 0)
        dv += _dot(kept.astype(q.dtype), gradient, 1, 0)
        return dk, dv

    start = (jnp.zeros((block, grid.width), jnp.float32),) * 2
    dk, dv = jax.lax.fori_loop(range_ref[0], range_ref[1], body, start)
    dk_ref[...] = (dk * grid.width**-0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
