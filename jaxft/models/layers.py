"""The parts that transformers are built of: linear, norm, embedding, activations, dropout, attention."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


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
    row = outer // jnp.uint32(per_row) + jnp.asarray(seed.first_row).astype(jnp.uint32)
    # Odd constants with well-spread bits keep the fields apart; each is mixed before the next is added.
    h = _mix(jnp.asarray(seed.seed).astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    h = _mix(h + jnp.asarray(site).astype(jnp.uint32) * jnp.uint32(0x7FEB352D))
    h = _mix(h + row * jnp.uint32(0x846CA68B))
    h = _mix(h + (outer % jnp.uint32(per_row)) * jnp.uint32(0xC2B2AE3D))
    inner = jax.lax.iota(jnp.uint32, last) * jnp.uint32(0x9E3779B9)
    bits = _mix(h[:, None] + inner[None, :])
    return (bits >= jnp.uint32(round(rate * 2**32))).reshape(shape)


def dropout(
    x: jax.Array, rate: float, seed: DropoutSeed | None, site: int | jax.Array, *, rows: int | None = None
) -> jax.Array:
    """Sets elements of `x` to zero with probability `rate` and divides the others by 1 - rate.

    `x` is `[R, ...]`, or flat `[R * L, ...]` with `rows=R`. `site` numbers the place in the network; two
    places with one number would share a mask. The mask is `keep_mask`'s; it is not kept for the backward
    pass but hashed again there. Source: Srivastava et al., 2014.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropout(x, seed, jnp.asarray(site), rate, x.shape[0] if rows is None else rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _dropout(x, seed, site, rate, rows):
    mask = keep_mask(x.shape, rate, seed, site, rows)
    return jnp.where(mask, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _dropout_forward(x, seed, site, rate, rows):
    return _dropout(x, seed, site, rate, rows), (seed, site)


def _dropout_backward(rate, rows, residuals, gradient):
    seed, site = residuals
    return _dropout(gradient, seed, site, rate, rows), None, None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def _gelu_and_derivative(x: jax.Array, approximate: bool) -> tuple[jax.Array, jax.Array]:
    """GELU and its derivative at `x`, both of x's dtype, computed in float32."""
    z = x.astype(jnp.float32)
    if approximate:
        c = math.sqrt(2.0 / math.pi)
        t = jnp.tanh(c * (z + 0.044715 * z**3))
        cdf = 0.5 * (1.0 + t)
        slope = 0.5 * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * z * z)
    else:
        cdf = 0.5 * (1.0 + jax.lax.erf(z * math.sqrt(0.5)))
        slope = jnp.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
    return (z * cdf).astype(x.dtype), (cdf + z * slope).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """GELU (Hendrycks & Gimpel, 2016): x Phi(x), or its tanh approximation. Any shape, dtype of `x`.

    Saves its derivative instead of its input, so that the backward pass is one product.
    """
    return _gelu_and_derivative(x, approximate)[0]


gelu.defvjp(_gelu_and_derivative, lambda approximate, derivative, gradient: (gradient * derivative,))

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: gelu(x, False),
    "gelu_tanh": lambda x: gelu(x, True),
    "relu": jax.nn.relu,
}


def attention(
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
) -> jax.Array:
    """Multi-head scaled dot-product attention within segments (Vaswani et al., 2017, equation 1).

    q, k, v: flat `[R * L, D]`, heads side by side in D. segment_ids: int32 `[R, L]`. Gives `[R * L, D]` of
    q's dtype; scores and softmax are float32. A position sees the positions of its row with the same
    segment id, with `causal` only those up to itself. Padding, segment 0, sees padding: finite, and nothing
    else sees it. Dropout at `rate` is applied to the weights, indexed `[R, H, L, L]` as (row, head, query,
    key).
    """
    if seed is None or rate == 0.0:
        rate, seed = 0.0, None
    return _attention(q, k, v, segment_ids, seed, jnp.asarray(site), num_heads, causal, rate)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attention(q, k, v, segment_ids, seed, site, num_heads, causal, rate):
    return _attention_forward(q, k, v, segment_ids, seed, site, num_heads, causal, rate)[0]


def _attention_forward(q, k, v, segment_ids, seed, site, num_heads, causal, rate):
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
        mask = keep_mask(powers.shape, rate, seed, site, rows)
        kept = jnp.where(mask, powers * jnp.asarray(1.0 / (1.0 - rate), dtype), jnp.zeros((), dtype))
        kept = jax.lax.optimization_barrier(kept)
    powers, kept = (x.reshape(rows * num_heads, length, length) for x in (powers, kept))
    mixed = _merge_heads((_batched_dot(kept, v, 2, 1) * normalizer).astype(dtype), rows)
    return mixed, (q, k, v, powers, kept, normalizer, mixed)


def _attention_backward(num_heads, causal, rate, residuals, gradient):
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
    return *(_merge_heads(x.astype(dtype), rows) for x in (dq, dk, dv)), None, None, None


_attention.defvjp(_attention_forward, _attention_backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` in x's dtype: `[..., in] -> [..., out]`; parameters float32, kernel `[in, out]`."""

    def __init__(self, inputs: int, outputs: int, *, initializer_range: float, rngs: nnx.Rngs):
        initializer = nnx.initializers.normal(initializer_range)
        self.kernel = nnx.Param(initializer(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., in] -> [..., out]`."""
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, epsilon):
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    z = x.astype(jnp.float32)
    mean = jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(z - mean), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((z - mean) * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, residuals, gradient):
    x, mean, inverse, scale = residuals
    g = gradient.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    # Sums as matrix products: on CPU those use all cores, reductions do not.
    g_normal, ones = g * normal, jnp.ones((1, x.shape[0]), jnp.float32)
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    shift = dot(g, scale)[:, None] / x.shape[-1]
    slope = dot(g_normal, scale)[:, None] / x.shape[-1]
    dx = (g * scale - shift - normal * slope) * inverse
    return dx.astype(x.dtype), dot(ones, g_normal)[0], dot(ones, g)[0]


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nnx.Module):
    """Layer normalization (Ba et al., 2016) over the last axis, computed in float32, given in x's dtype."""

    def __init__(self, size: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D] -> [..., D]`."""
        shape = x.shape
        return _layer_norm(x.reshape(-1, shape[-1]), self.scale[...], self.bias[...], self.epsilon).reshape(
            shape
        )


class Embedding(nnx.Module):
    """A table `embedding [N, D]` of float32; looks up int32 ids of any shape, giving `[..., D]`.

    An id outside [0, N) gives NaN, which stops a run; clamping it would train on the wrong vector.
    """

    def __init__(self, count: int, size: int, *, initializer_range: float, rngs: nnx.Rngs):
        initializer = nnx.initializers.normal(initializer_range)
        self.embedding = nnx.Param(initializer(rngs.params(), (count, size), jnp.float32))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int32 `[...] -> [..., D]`."""
        return _lookup(self.embedding[...], ids)


@jax.custom_vjp
def _lookup(table, ids):
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def _lookup_backward(residuals, gradient):
    table, ids = residuals
    # The zeros hang on the gradient, or XLA would hold a second table from the start of the step on.
    zero = gradient.reshape(-1)[0].astype(table.dtype) * 0
    return jnp.full(table.shape, zero).at[ids].add(gradient.astype(table.dtype), mode="drop"), None


_lookup.defvjp(lambda table, ids: (_lookup(table, ids), (table, ids)), _lookup_backward)
