"""Computes digests of arrays on their devices, by which damage to checkpoints is detected."""

from typing import Any

import jax
import jax.numpy as jnp


def digest_tree(tree: Any) -> list[int]:
    """Returns a 32-bit number for each leaf of `tree`: the sum of its bits, weighted by position, modulo 2^32.

    Integer sums do not depend on order, so the digest is the same on any mesh. Every weight is odd, so a changed bit
    changes the digest. Leaves are digested one after the other, because a CPU computes all terms of a sum before it
    adds them.
    """
    return [int(jax.device_get(_digest_leaf(leaf))) for leaf in jax.tree.leaves(tree)]


@jax.jit
def _digest_leaf(x: jax.Array) -> jax.Array:
    """Returns the digest of one array, a uint32 scalar."""
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).reshape(-1)
    index = jax.lax.iota(jnp.uint32, bits.size)
    return jnp.sum(bits.astype(jnp.uint32) * (index * jnp.uint32(0x9E3779B2) + jnp.uint32(1)))
