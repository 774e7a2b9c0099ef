"""Computes batch normalization with a hand-written gradient, and keeps its running statistics."""

import functools
from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.linear import sum_columns
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.precision import widen


class Statistic(nnx.Variable[jax.Array]):
    """Holds a running statistic of a model's inputs, float32. A train step returns its next value."""


class BatchNorm(nnx.Module):
    """Batch normalization (Ioffe & Szegedy, 2015) of each channel, computed in float32, returned in x's dtype.

    While it trains it normalizes by the mean and the biased variance of the batch, and moves the running ones towards
    the batch's mean and unbiased variance, as PyTorch does. Otherwise it normalizes by the running ones. If devices
    split the rows, statistics are of the rows of all devices.

    Args:
      channels: C.
      epsilon: what is added to the variance.
      momentum: the share of a batch in the next running statistics.

    Attributes:
      is_frozen: whether it uses the running statistics, and leaves them as they are, even if the network trains.
    """

    def __init__(self, channels: int, epsilon: float, momentum: float):
        self.scale = make_parameter(jnp.ones((channels,), jnp.float32), Role(Kind.NORM))
        self.bias = make_parameter(jnp.zeros((channels,), jnp.float32), Role(Kind.NORM))
        self.running_mean = _make_statistic(jnp.zeros((channels,), jnp.float32))
        self.running_variance = _make_statistic(jnp.ones((channels,), jnp.float32))
        self.epsilon, self.momentum, self.is_frozen = epsilon, momentum, False

    def __call__(self, x: jax.Array, row_weights: jax.Array, training: bool) -> jax.Array:
        """Normalizes x, `[R, ..., C] -> [R, ..., C]`.

        Args:
          x: the values of each channel, such as `[R, H, W, C]`.
          row_weights: `[R]`, 0 for rows that do not count in the statistics of the batch. If no row counts, the
            running ones are used, and stay as they are.
          training: whether the network trains.
        """
        scale, bias = self.scale[...], self.bias[...]
        mean, variance = self.running_mean[...], self.running_variance[...]
        if not training or self.is_frozen:
            factor = scale * jax.lax.rsqrt(variance + self.epsilon)
            return (widen(x) * factor + (bias - mean * factor)).astype(x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        counts = jnp.repeat(row_weights > 0, len(flat) // len(row_weights)).astype(mean.dtype)
        normal, batch_mean, batch_variance = _batch_norm(
            flat, counts, scale, bias, (mean, variance), self.epsilon
        )
        total = jnp.sum(counts)
        unbiased = batch_variance * (total / jnp.maximum(total - 1, 1))
        share = jnp.where(total > 0, self.momentum, 0).astype(mean.dtype)
        self.running_mean.set_value((1 - share) * mean + share * batch_mean)
        self.running_variance.set_value((1 - share) * variance + share * unbiased)
        return normal.reshape(x.shape)


def freeze_statistics(model: nnx.Module, frozen: Collection[str]) -> None:
    """Freezes each `BatchNorm` of a model whose statistics are among the paths `frozen`."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.is_frozen = "/".join(map(str, (*path, "running_mean"))) in frozen


def _make_statistic(value: jax.Array) -> Statistic:
    return Statistic(value, role=Role(Kind.STATISTIC))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _batch_norm(x, counts, scale, bias, running, epsilon):
    """Normalizes `[N, C]`.

    Args:
      x: the values.
      counts: `[N]`, 1 for vectors that count in the statistics, 0 for others.
      scale, bias: `[C]`.
      running: the mean and the variance to use if no vector counts.
      epsilon: what is added to the variance.

    Returns:
      The normalized x; and the mean and the biased variance, which have no gradients.
    """
    return _batch_norm_forward(x, counts, scale, bias, running, epsilon)[0]


def _batch_norm_forward(x, counts, scale, bias, running, epsilon):
    z, total = widen(x), jnp.sum(counts)
    mean = jnp.where(total > 0, _sum(z, counts) / total, running[0])
    variance = jnp.where(total > 0, _sum(jnp.square(z - mean), counts) / total, running[1])
    # An overflow shall show in the loss: as zeros it would hide there, and stay in the running statistics.
    inverse = jnp.where(jnp.isfinite(variance), jax.lax.rsqrt(variance + epsilon), jnp.nan)
    normal = ((z - mean) * (inverse * scale) + bias).astype(x.dtype)
    return (normal, mean, variance), (x, counts, mean, inverse, scale)


def _batch_norm_backward(epsilon, residuals, gradients):
    # Let n be the normalized x, and g the gradient of the output. Then
    # dx = (g - count / total * (sum(g) + n * sum(g * n))) * inverse * scale, with sums over all N vectors.
    x, counts, mean, inverse, scale = residuals
    g, normal = widen(gradients[0]), (widen(x) - mean) * inverse
    shift, slope = sum_columns(g), sum_columns(g * normal)
    share = (counts / jnp.maximum(jnp.sum(counts), 1))[:, None]
    dx = (g - share * (shift + normal * slope)) * (inverse * scale)
    return dx.astype(x.dtype), None, slope, shift, None


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _sum(x: jax.Array, counts: jax.Array) -> jax.Array:
    """Returns the sum of the vectors that count, `[N, C] -> [C]`; on CPU by a product, as in `sum_columns`."""

    def multiply(x: jax.Array) -> jax.Array:
        return jnp.matmul(counts[None], x, precision=jax.lax.Precision.HIGHEST)[0]

    return jax.lax.platform_dependent(x, cpu=multiply, default=lambda x: (x * counts[:, None]).sum(axis=0))
