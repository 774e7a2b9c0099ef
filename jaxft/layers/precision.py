"""Chooses the dtype in which sums and exponentials are computed."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """Casts x to float32, in which a sum of many bfloat16 numbers is exact enough; float64 stays as it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
