"""Looks up and sums embeddings, with a hand-written gradient."""

from collections.abc import Callable
from typing import Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.precision import widen
from jaxft.layers.sharding import constrain_sharding


class EmbeddingAdapter(Protocol):
    """Changes what an embedding returns. It is a module of flax.

    Attributes:
      count: the number of positions that it adds before those of texts.
    """

    count: int

    def __call__(self, ids: jax.Array, look_up: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Returns vectors of ids, int32 `[...]` -> `[..., D]`; `look_up` returns those of the table."""


class Embedding(nnx.Module):
    """A table `embedding`, float32 `[count, D]`, with a vector for each id.

    An id outside [0, count) gives NaN, which stops a run. A clamped id would train the wrong vector.

    Args:
      count: the number of vectors.
      size: D, their width.
      initializer_range: the standard deviation of new vectors.
      is_vocabulary: whether ids are those of tokens.
    """

    adapter: EmbeddingAdapter | None = None  # unless `jaxft.adapters` has given it one

    def __init__(
        self,
        count: int,
        size: int,
        *,
        initializer_range: float,
        rngs: nnx.Rngs,
        is_vocabulary: bool = False,
    ):
        table = nnx.initializers.normal(initializer_range)(rngs.params(), (count, size), jnp.float32)
        role = (
            Role(Kind.VOCABULARY, ("tensor", "fsdp"))
            if is_vocabulary
            else Role(Kind.EMBEDDING, (None, "fsdp"))
        )
        self.embedding = make_parameter(table, role)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Looks up ids, int32 `[...]` -> `[..., D]` of float32, or of float64 if the table is."""
        return self.look_up(ids) if self.adapter is None else self.adapter(ids, self.look_up)

    def look_up(self, ids: jax.Array) -> jax.Array:
        """Looks up ids in the table alone, int32 `[...]` -> `[..., D]`."""
        return widen(_lookup(self.embedding[...], ids))


@jax.custom_vjp
def _lookup(table, ids):
    """Takes rows of a table: `[V, D]`, int32 `[...]` -> `[..., D]`.

    The gradient is summed in float32, because a frequent word has many terms. It has the table's dtype.
    """
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def _lookup_backward(residuals, gradient):
    table, ids = residuals
    gradient = widen(gradient)
    # The zeros depend on the gradient. If they did not, XLA would hold a second table from the start of the step.
    zero = gradient[(0,) * gradient.ndim] * 0
    return jnp.full(table.shape, zero).at[ids].add(gradient, mode="drop").astype(table.dtype), None


_lookup.defvjp(lambda table, ids: (_lookup(table, ids), (table, ids)), _lookup_backward)


def sum_embeddings(*lookups: tuple[Embedding, jax.Array], activations: NamedSharding | None) -> jax.Array:
    """Returns the sum of embeddings, sharded as `activations` says.

    Tables are split by columns over the last of the axes that rows are split over. Each device looks up its columns
    for all rows of the devices that share a table. Then the devices exchange columns for rows. Neither a table nor its
    gradient is ever gathered.

    Args:
      lookups: pairs of a table and int32 ids `[N]`.
      activations: the sharding of the sum; None on one device.

    Returns:
      float32 `[N, D]`.
    """
    if activations is None:
        return cast(jax.Array, sum(table(ids) for table, ids in lookups))
    *others, last = activations.spec[0]
    rows = NamedSharding(activations.mesh, PartitionSpec(tuple(others)))
    columns = NamedSharding(activations.mesh, PartitionSpec(tuple(others), last))
    columns_of_tables = (
        constrain_sharding(table(constrain_sharding(ids, rows)), columns) for table, ids in lookups
    )
    x = cast(jax.Array, sum(columns_of_tables))
    return constrain_sharding(constrain_sharding(x, columns), activations)
