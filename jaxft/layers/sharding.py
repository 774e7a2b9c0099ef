"""Constrains the sharding of activations."""

import jax
from jax.sharding import NamedSharding


def constrain_sharding(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Constrains the sharding of x, and in the backward pass of its gradient.

    Without the constraint XLA may split activations by the axis that parameters are split by. It would then gather and
    reduce activations instead of each layer's parameters. An x that the sharding does not divide is returned unchanged.
    """
    if sharding is None:
        return x
    try:
        sharding.shard_shape(x.shape)
    except ValueError:
        return x
    return jax.lax.with_sharding_constraint(x, sharding)
