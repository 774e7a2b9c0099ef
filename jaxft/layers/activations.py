"""Activations with hand-written gradients."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxft.layers.precision import widen


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """Computes GELU (Hendrycks & Gimpel, 2016), x Phi(x), or its tanh approximation.

    The backward pass keeps only the input.

    Args:
      x: any shape and float dtype.
      approximate: whether to compute the tanh approximation.

    Returns:
      The shape and dtype of x; computed in float32.
    """
    return _gelu_and_derivative(x, approximate)[0]


def _gelu_backward(approximate, x, gradient):
    # Without the barrier XLA would also keep the erf or tanh of the forward pass, which doubles the memory.
    return (gradient * _gelu_and_derivative(jax.lax.optimization_barrier(x), approximate)[1],)


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x), _gelu_backward)


def _gelu_and_derivative(x: jax.Array, approximate: bool) -> tuple[jax.Array, jax.Array]:
    """Returns GELU and its derivative at x, both in x's dtype, computed in float32."""
    z = widen(x)
    if approximate:
        c = math.sqrt(2.0 / math.pi)
        t = jnp.tanh(c * (z + 0.044715 * z**3))
        cdf = 0.5 * (1.0 + t)
        slope = 0.5 * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * z * z)
    else:
        cdf = 0.5 * (1.0 + jax.lax.erf(z * math.sqrt(0.5)))
        slope = jnp.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
    return (z * cdf).astype(x.dtype), (cdf + z * slope).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: gelu(x, False),
    "gelu_tanh": lambda x: gelu(x, True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
