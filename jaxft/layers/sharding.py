"""Lays activations over devices."""

import jax
from jax.sharding import NamedSharding


def constrain_sharding(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Lays x, and in the backward pass its gradient, over the devices as `sharding` says.

    Without the constraint XLA may split activations by the axis that parameters are split by: instead of each layer's
    parameters it would gather and reduce activations. An x that the sharding does not divide is returned unchanged.
    """
    if sharding is None:
        return x
    try:
        sharding.shard_shape(x.shape)
    except ValueError:
        return x
    return jax.lax.with_sharding_constraint(x, sharding)
