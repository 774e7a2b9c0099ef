"""Flash attention within segments, with dropout, as Pallas kernels for one NVIDIA GPU."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxft.layers.attention.limits import FLASH_BLOCK
from jaxft.layers.dropout import draw_from_hashes

HIDDEN = -1e30  # a score that no weight is left of


def flash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    hashes: jax.Array | None = None,
    *,
    num_heads: int,
    causal: bool = False,
    rate: float = 0.0,
    interpret: bool = False,
) -> jax.Array:
    """What `attention.dense` gives, its dropout mask included, holding a block of scores at a time.

    Blocks that no segment is common to are not computed: time grows with the lengths of the segments, not with the
    square of the row's. Forward and backward as Dao, 2023 (FlashAttention-2), written here because cuDNN and jax's
    own kernels go through all blocks and cannot draw this mask.

    q, k, v: flat `[R * L, D]`, heads side by side in D, L a multiple of `FLASH_BLOCK` and heads a power of two wide.
    segment_ids: int32 `[R, L]`. hashes: uint32 `[R, H, L]`, `layers.vector_hashes` of the weights' rows, where
    weights are dropped at `rate`; None for no dropout. interpret: computes it anywhere, slowly, for tests.
    """
    return _flash(q, k, v, segment_ids, hashes, num_heads, causal, rate, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _flash(q, k, v, segment_ids, hashes, num_heads, causal, rate, interpret):
    return _forward(q, k, v, segment_ids, hashes, num_heads, causal, rate, interpret)[0]


def _forward(q, k, v, segment_ids, hashes, num_heads, causal, rate, interpret):
    call = _Call(q, segment_ids, num_heads, causal, rate, interpret)
    inputs = [*_of_queries(call, q, k, v), ("values", hashes)]
    out, log_total = call(_forward_kernel, inputs, [("part", q.dtype), ("values", jnp.float32)])
    return out, (q, k, v, segment_ids, hashes, out, log_total)


def _of_queries(call: "_Call", q, k, v) -> list:
    """What both kernels that go through the keys of a block of queries are given first."""
    keys = [("row", k), ("row", v), ("ids", call.segment_ids)]
    return [("range", call.ranges(over_keys=True)), ("part", q), *keys]


def _backward(num_heads, causal, rate, interpret, residuals, gradient):
    q, k, v, segment_ids, hashes, out, log_total = residuals
    call = _Call(q, segment_ids, num_heads, causal, rate, interpret)
    inputs = _of_queries(call, q, k, v)
    inputs += [("part", out), ("part", gradient), ("values", log_total), ("values", hashes)]
    dq, inner = call(_queries_kernel, inputs, [("part", q.dtype), ("values", jnp.float32)])
    inputs = [
        ("range", call.ranges(over_keys=False)),
        ("part", k),
        ("part", v),
        ("row", q),
        ("row", gradient),
    ]
    inputs += [("ids", segment_ids), ("row_values", log_total), ("row_values", inner), ("row_values", hashes)]
    dk, dv = call(_keys_kernel, inputs, [("part", k.dtype), ("part", v.dtype)])
    return dq, dk, dv, None, None


_flash.defvjp(_forward, _backward)


class _Call:
    """A kernel's grid, a program for each block of positions of a head of a row, and what programs see of arrays."""

    def __init__(self, q, segment_ids, num_heads: int, causal: bool, rate: float, interpret: bool):
        self.rows, self.length = segment_ids.shape
        self.segment_ids, self.causal, self.rate, self.interpret = segment_ids, causal, rate, interpret
        self.num_heads, self.width = num_heads, q.shape[-1] // num_heads
        length, block, width = self.length, FLASH_BLOCK, self.width
        self.grid = (length // block, num_heads, self.rows)
        flat, of_head = (self.rows, length, num_heads * width), (self.rows, num_heads, length)
        # kind: shape of the array, that of what a program sees, and which of those it is.
        self.kinds = {
            "part": (flat, (None, block, width), lambda i, h, r: (r, i, h)),
            "row": (flat, (None, length, width), lambda i, h, r: (r, 0, h)),
            "values": (of_head, (None, None, block), lambda i, h, r: (r, h, i)),
            "row_values": (of_head, (None, None, length), lambda i, h, r: (r, h, 0)),
            "ids": ((self.rows, length), (None, length), lambda i, h, r: (r, 0)),
            "range": ((self.rows, length // block, 2), (None, None, 2), lambda i, h, r: (r, i, 0)),
        }

    def __call__(self, kernel: Callable, inputs: list, outputs: list) -> list[jax.Array]:
        """Runs `kernel` on (kind, array) `inputs`, of which the last may be None, giving (kind, dtype) `outputs`."""
        inputs = [(kind, x) for kind, x in inputs if x is not None]
        results = pl.pallas_call(
            functools.partial(kernel, call=self),
            grid=self.grid,
            in_specs=[pl.BlockSpec(*self.kinds[kind][1:]) for kind, _ in inputs],
            out_specs=[pl.BlockSpec(*self.kinds[kind][1:]) for kind, _ in outputs],
            out_shape=[jax.ShapeDtypeStruct(self.kinds[kind][0], dtype) for kind, dtype in outputs],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=self.interpret,
            name="flash" + kernel.__name__,
        )(*(x.reshape(self.kinds[kind][0]) for kind, x in inputs))
        flat = (self.rows * self.length, -1)
        return [
            x.reshape(flat) if kind == "part" else x for x, (kind, _) in zip(results, outputs, strict=True)
        ]

    def ranges(self, *, over_keys: bool) -> jax.Array:
        """int32 `[R, L / block, 2]`: the first block that a block may see, or be seen by, and one past the last."""
        # Padding comes after all segments, so that a row's ids ascend.
        ids = jnp.where(self.segment_ids > 0, self.segment_ids, jnp.iinfo(jnp.int32).max)
        ids = ids.reshape(self.rows, -1, FLASH_BLOCK)
        least, largest = ids.min(axis=-1), ids.max(axis=-1)
        common = (least[:, :, None] <= largest[:, None, :]) & (least[:, None, :] <= largest[:, :, None])
        if self.causal:
            place = jnp.arange(ids.shape[1])
            before = place[None, :] <= place[:, None]
            common &= before if over_keys else before.T
        first = jnp.argmax(common, axis=-1)
        end = common.shape[-1] - jnp.argmax(common[:, :, ::-1], axis=-1)
        return jnp.stack([first, end], axis=-1).astype(jnp.int32)

    def scale(self, scores: jax.Array) -> jax.Array:
        """Products of queries and keys as exponents of two."""
        return scores * (self.width**-0.5 * math.log2(math.e))

    def visible(self, query_ids, key_ids, first_query, first_key) -> jax.Array:
        """Boolean `[queries, keys]`."""
        seen = query_ids[:, None] == key_ids[None, :]
        if self.causal:
            place = jnp.arange(FLASH_BLOCK)
            seen &= (first_query + place)[:, None] >= (first_key + place)[None, :]
        return seen

    def kept(self, hashes, first_key) -> jax.Array:
        """What weights are multiplied by, `[queries, keys]`: 0 where they are dropped."""
        keys = (first_key + jnp.arange(FLASH_BLOCK)).astype(jnp.uint32)
        return jnp.where(
            draw_from_hashes(hashes[:, None], keys[None, :], self.rate), 1.0 / (1.0 - self.rate), 0.0
        )


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)


def _forward_kernel(range_ref, q_ref, k_ref, v_ref, ids_ref, *refs, call: _Call):
    *hash_ref, out_ref, log_total_ref = refs
    block = FLASH_BLOCK
    first_query = pl.program_id(0) * block
    q, query_ids = q_ref[...], ids_ref[pl.ds(first_query, block)]
    hashes = hash_ref[0][...] if hash_ref else None

    def body(index, carry):
        out, top, total = carry
        here = pl.ds(index * block, block)
        scores = call.scale(_dot(q, k_ref[here, :], 1, 1))
        seen = call.visible(query_ids, ids_ref[here], first_query, index * block)
        scores = jnp.where(seen, scores, HIDDEN)
        # Where nothing was seen yet, weights of hidden scores are summed; the first real score sets them to 0.
        new_top = jnp.maximum(top, scores.max(axis=1))
        shrink, powers = jnp.exp2(top - new_top), jnp.exp2(scores - new_top[:, None])
        total = total * shrink + powers.sum(axis=1)
        if hashes is not None:
            powers *= call.kept(hashes, index * block)
        out = out * shrink[:, None] + _dot(powers.astype(q.dtype), v_ref[here, :], 1, 0)
        return out, new_top, total

    start = (
        jnp.zeros((block, call.width), jnp.float32),
        jnp.full((block,), HIDDEN, jnp.float32),
        jnp.zeros((block,), jnp.float32),
    )
    out, top, total = jax.lax.fori_loop(range_ref[0], range_ref[1], body, start)
    out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
    log_total_ref[...] = top + jnp.log2(total)


def _queries_kernel(
    range_ref, q_ref, k_ref, v_ref, ids_ref, out_ref, gradient_ref, log_total_ref, *refs, call: _Call
):
    *hash_ref, dq_ref, inner_ref = refs
    block = FLASH_BLOCK
    first_query = pl.program_id(0) * block
    q, gradient, log_total = q_ref[...], gradient_ref[...], log_total_ref[...]
    query_ids = ids_ref[pl.ds(first_query, block)]
    hashes = hash_ref[0][...] if hash_ref else None
    inner = jnp.sum(out_ref[...].astype(jnp.float32) * gradient.astype(jnp.float32), axis=1)
    inner_ref[...] = inner

    def body(index, dq):
        here = pl.ds(index * block, block)
        k = k_ref[here, :]
        seen = call.visible(query_ids, ids_ref[here], first_query, index * block)
        scores = call.scale(_dot(q, k, 1, 1))
        weights = jnp.where(seen, jnp.exp2(scores - log_total[:, None]), 0.0)
        pull = _dot(gradient, v_ref[here, :], 1, 1)
        if hashes is not None:
            pull *= call.kept(hashes, index * block)
        d_scores = weights * (pull - inner[:, None])
        return dq + _dot(d_scores.astype(k.dtype), k, 1, 0)

    dq = jax.lax.fori_loop(range_ref[0], range_ref[1], body, jnp.zeros((block, call.width), jnp.float32))
    dq_ref[...] = (dq * call.width**-0.5).astype(dq_ref.dtype)


def _keys_kernel(
    range_ref, k_ref, v_ref, q_ref, gradient_ref, ids_ref, log_total_ref, inner_ref, *refs, call: _Call
):
    *hash_ref, dk_ref, dv_ref = refs
    block = FLASH_BLOCK
    first_key = pl.program_id(0) * block
    k, v, key_ids = k_ref[...], v_ref[...], ids_ref[pl.ds(first_key, block)]

    def body(index, carry):
        dk, dv = carry
        here = pl.ds(index * block, block)
        q, gradient = q_ref[here, :], gradient_ref[here, :]
        # All transposed, [keys, queries], as the products that follow need it.
        seen = call.visible(ids_ref[here], key_ids, index * block, first_key).T
        scores = call.scale(_dot(k, q, 1, 1))
        weights = jnp.where(seen, jnp.exp2(scores - log_total_ref[here][None, :]), 0.0)
        pull, mixing = _dot(v, gradient, 1, 1), weights
        if hash_ref:
            mask = call.kept(hash_ref[0][here], first_key).T
            pull, mixing = pull * mask, mixing * mask
        d_scores = weights * (pull - inner_ref[here][None, :])
        dk += _dot(d_scores.astype(q.dtype), q, 1, 0)
        dv += _dot(mixing.astype(q.dtype), gradient, 1, 0)
        return dk, dv

    start = (jnp.zeros((block, call.width), jnp.float32),) * 2
    dk, dv = jax.lax.fori_loop(range_ref[0], range_ref[1], body, start)
    dk_ref[...] = (dk * call.width**-0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
