"""The parts that transformers are built of beside attention: linear, norm, embedding, activations, dropout."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.parallel.sharded_matmul import ActivationLayout, sharded_matmul


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
    return kept(hashes[:, None], jax.lax.iota(jnp.uint32, last)[None, :], rate)


def vector_hashes(row: jax.Array, index: jax.Array, seed: DropoutSeed, site: int | jax.Array) -> jax.Array:
    """uint32, of the shape that `row` and `index` broadcast to: what `kept` draws a vector's mask from."""
    row = row + jnp.asarray(seed.first_row).astype(jnp.uint32)
    # Odd constants with well-spread bits keep the fields apart; each is mixed before the next is added.
    h = _mix(jnp.asarray(seed.seed).astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    h = _mix(h + jnp.asarray(site).astype(jnp.uint32) * jnp.uint32(0x7FEB352D))
    h = _mix(h + row * jnp.uint32(0x846CA68B))
    return _mix(h + index * jnp.uint32(0xC2B2AE3D))


def kept(hashes: jax.Array, place: jax.Array, rate: float) -> jax.Array:
    """Boolean, of the shape that `hashes` and `place`, both uint32, broadcast to; place: that in the vector."""
    return _mix(hashes + place * jnp.uint32(0x9E3779B9)) >= jnp.uint32(round(rate * 2**32))


class Vectors(NamedTuple):
    """Some of the vectors of flat `[R * L, D]`: which, int32 `[N]`, of which row and where in it, uint32."""

    flat: jax.Array
    row: jax.Array
    index: jax.Array


def some(x: jax.Array, of: Vectors | None) -> jax.Array:
    """`[R * L, D] -> [N, D]`, the vectors `of` it, or all."""
    return x if of is None else x.at[of.flat].get(unique_indices=True, mode="promise_in_bounds")


def spread(x: jax.Array, of: Vectors | None, count: int) -> jax.Array:
    """Undoes `some`: `[N, D]` -> `[count, D]`, 0 where there was none."""
    if of is None:
        return x
    zeros = jnp.zeros((count, x.shape[-1]), x.dtype)
    return zeros.at[of.flat].set(x, unique_indices=True, mode="promise_in_bounds")


def dropout(
    x: jax.Array,
    rate: float,
    seed: DropoutSeed | None,
    site: int | jax.Array,
    *,
    rows: int | None = None,
    some: Vectors | None = None,
) -> jax.Array:
    """Sets elements of `x` to zero with probability `rate` and divides the others by 1 - rate.

    `x` is `[R, ...]`, or flat `[R * L, ...]` with `rows=R`, or `some` vectors of that. `site` numbers the place in
    the network; two places with one number would share a mask. The mask is `keep_mask`'s; it is not kept for the
    backward pass but hashed again there. Source: Srivastava et al., 2014.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropout(x, seed, jnp.asarray(site), some, rate, x.shape[0] if rows is None else rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _dropout(x, seed, site, some, rate, rows):
    if some is None:
        mask = keep_mask(x.shape, rate, seed, site, rows)
    else:
        mask = keep_mask_at(some.row, some.index, jnp.uint32(0), x.shape[-1], rate, seed, site)
    return jnp.where(mask, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _dropout_forward(x, seed, site, some, rate, rows):
    return _dropout(x, seed, site, some, rate, rows), (seed, site, some)


def _dropout_backward(rate, rows, residuals, gradient):
    return _dropout(gradient, *residuals, rate, rows), None, None, None


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

    Saves its input alone for the backward pass.
    """
    return _gelu_and_derivative(x, approximate)[0]


def _gelu_backward(approximate, x, gradient):
    # The barrier, or XLA would keep the erf or tanh of the forward pass as well: as much memory again.
    return (gradient * _gelu_and_derivative(jax.lax.optimization_barrier(x), approximate)[1],)


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x), _gelu_backward)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: gelu(x, False),
    "gelu_tanh": lambda x: gelu(x, True),
    "relu": jax.nn.relu,
}


def _column_sums(x: jax.Array) -> jax.Array:
    """`[N, D]` of any float dtype -> float32 `[D]`, summed in float32."""
    return jax.lax.platform_dependent(
        x.astype(jnp.float32),
        # Products use all cores there, reductions do not.
        cpu=lambda x: jnp.matmul(jnp.ones((1, x.shape[0])), x, precision=jax.lax.Precision.HIGHEST)[0],
        default=lambda x: x.sum(axis=0),
    )


@jax.custom_vjp
def _add_bias(x, bias):
    return x + bias.astype(x.dtype)


# By itself the gradient of bfloat16 activations would be summed in bfloat16, row by row.
_add_bias.defvjp(
    lambda x, bias: (_add_bias(x, bias), None),
    lambda _, gradient: (gradient, _column_sums(gradient.reshape(-1, gradient.shape[-1]))),
)


class Linear(nnx.Module):
    """`x @ kernel + bias` in x's dtype: `[..., in] -> [..., out]`; parameters float32, kernel `[in, out]`.

    rows, split: how x, then `[N, in]`, and the kernel lie over devices; see `products`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        initializer_range: float,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        rows: ActivationLayout | None = None,
        split: int = 0,
    ):
        initializer = nnx.initializers.normal(initializer_range)
        self.kernel = nnx.Param(initializer(rngs.params(), (inputs, outputs), jnp.float32))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.use_bias = use_bias
        self.rows = rows
        self.split = split

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., in] -> [..., out]`."""
        return together(x, self)[0]


def together(x: jax.Array, *linears: Linear) -> list[jax.Array]:
    """What each of `linears`, alike but for their parameters, gives of x; devices exchange its gradient once."""
    first = linears[0]
    kernels = [linear.kernel[...].astype(x.dtype) for linear in linears]
    found = sharded_matmul(x, kernels, first.rows, first.split)
    if not first.use_bias:
        return found
    return [_add_bias(product, linear.bias[...]) for product, linear in zip(found, linears, strict=True)]


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
    # Rows' sums as products too, for the same reason as `_column_sums`.
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    g_normal = g * normal
    shift = dot(g, scale)[:, None] / x.shape[-1]
    slope = dot(g_normal, scale)[:, None] / x.shape[-1]
    dx = (g * scale - shift - normal * slope) * inverse
    return dx.astype(x.dtype), _column_sums(g_normal), _column_sums(g)


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
    """A table `embedding [N, D]`; looks up int32 ids of any shape, giving float32 `[..., D]`.

    An id outside [0, N) gives NaN, which stops a run; clamping it would train on the wrong vector.
    """

    def __init__(self, count: int, size: int, *, initializer_range: float, rngs: nnx.Rngs):
        initializer = nnx.initializers.normal(initializer_range)
        self.embedding = nnx.Param(initializer(rngs.params(), (count, size), jnp.float32))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int32 `[...]` -> float32 `[..., D]`."""
        return _lookup(self.embedding[...], ids).astype(jnp.float32)


@jax.custom_vjp
def _lookup(table, ids):
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def _lookup_backward(residuals, gradient):
    table, ids = residuals
    gradient = gradient.astype(jnp.float32)  # in which a word's many are added up, whatever the table's dtype
    # The zeros hang on the gradient, or XLA would hold a second table from the start of the step on.
    zero = gradient[(0,) * gradient.ndim] * 0
    return jnp.full(table.shape, zero).at[ids].add(gradient, mode="drop").astype(table.dtype), None


_lookup.defvjp(lambda table, ids: (_lookup(table, ids), (table, ids)), _lookup_backward)
