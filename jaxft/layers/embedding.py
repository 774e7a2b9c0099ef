"""Embedding tables with a hand-written gradient."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.layers.layer_stacks import constrain_sharding


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


def sum_embeddings(*looked_up: tuple[Embedding, jax.Array], activations: NamedSharding | None) -> jax.Array:
    """Sum of embeddings, each of a table and int32 ids `[N]` -> float32 `[N, D]`, laid out as `activations` says.

    Tables are split by columns over the last of the axes that rows are split over. A device looks up its own
    columns for all rows of the devices that share a table; then columns are exchanged for rows, so that neither
    a table nor its gradient travels whole.
    """
    if activations is None:
        return sum(table(ids) for table, ids in looked_up)
    *others, last = activations.spec[0]
    rows = NamedSharding(activations.mesh, PartitionSpec(tuple(others)))
    columns = NamedSharding(activations.mesh, PartitionSpec(tuple(others), last))
    x = sum(constrain_sharding(table(constrain_sharding(ids, rows)), columns) for table, ids in looked_up)
    return constrain_sharding(constrain_sharding(x, columns), activations)
