"""Computes layer normalization with a hand-written gradient."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.linear import sum_columns
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.precision import widen


class LayerNorm(nnx.Module):
    """Layer normalization (Ba et al., 2016) over the last axis, computed in float32, returned in x's dtype.

    Args:
      size: the width of x.
      epsilon: what is added to the variance.
      use_bias: whether there is a bias.
    """

    def __init__(self, size: int, *, epsilon: float, use_bias: bool = True):
        self.scale = make_parameter(jnp.ones((size,), jnp.float32), Role(Kind.NORM))
        if use_bias:
            self.bias = make_parameter(jnp.zeros((size,), jnp.float32), Role(Kind.NORM))
        self.epsilon, self.use_bias = epsilon, use_bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x, `[..., D] -> [..., D]`."""
        flat, scale = x.reshape(-1, x.shape[-1]), self.scale[...]
        bias = self.bias[...] if self.use_bias else jnp.zeros_like(scale)
        return _layer_norm(flat, scale, bias, self.epsilon).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, epsilon):
    """Normalizes `[N, D]`. The backward pass keeps x, and the mean and inverse standard deviation of each row."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    z = widen(x)
    mean = jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(z - mean), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((z - mean) * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, residuals, gradient):
    # Let n be the normalized x, and g the gradient of the output. Then
    # dx = (g * scale - mean(g * scale) - n * mean(g * scale * n)) * inverse, with means over the last axis.
    x, mean, inverse, scale = residuals
    g = widen(gradient)
    normal = (widen(x) - mean) * inverse
    # Sums over rows are products too, for the reason in `sum_columns`.
    dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    g_normal = g * normal
    shift = dot(g, scale)[:, None] / x.shape[-1]
    slope = dot(g_normal, scale)[:, None] / x.shape[-1]
    dx = (g * scale - shift - normal * slope) * inverse
    return dx.astype(x.dtype), sum_columns(g_normal), sum_columns(g)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
