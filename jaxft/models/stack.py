"""What bodies are built of besides layers.py: the MLP, and how their layers are stacked, run and recomputed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.models.layers import ACTIVATIONS, Embedding, Linear, Vectors
from jaxft.parallel.sharded_matmul import PRODUCT, ActivationLayout

# Dropout sites: 0 for the embeddings, then three for each layer.
SITES_PER_LAYER = 3

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    # Keeps the outputs of the dense products, computes norms, activations and attention weights again.
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(PRODUCT)
    ),
    # Keeps each layer's input only.
    "full": _policies.nothing_saveable,
}


class MLP(nnx.Module):
    """Two linear layers with an activation between; new weights of the second spread by `output_range`.

    rows: how x, then `[N, D]`, lies over devices.
    """

    def __init__(
        self,
        size: int,
        inner: int,
        *,
        activation: str,
        initializer_range: float,
        output_range: float,
        rows: ActivationLayout | None,
        rngs: nnx.Rngs,
    ):
        options = {"rows": rows, "rngs": rngs}
        self.up = Linear(size, inner, initializer_range=initializer_range, **options)
        self.down = Linear(inner, size, initializer_range=output_range, split=1, **options)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D] -> [..., D]`."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


def check_options(*, hidden_size: int, num_heads: int, activation: str, remat: str) -> None:
    """Raises ValueError for options that no body can have."""
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {sorted(ACTIVATIONS)}")
    if remat not in ("none", *REMAT_POLICIES):
        raise ValueError(f"remat {remat!r} is none of {['none', *REMAT_POLICIES]}")


def rows_of(activations: NamedSharding | None, *, remat: str, unroll: bool) -> ActivationLayout | None:
    """What layers are told of how activations lie over devices."""
    # In a loop passes share nothing. What is computed again is, with the backward pass, apart from the forward pass.
    return None if activations is None else ActivationLayout(activations, again=unroll and remat == "none")


def embed(*looked_up: tuple[Embedding, jax.Array], activations: NamedSharding | None) -> jax.Array:
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
    x = sum(place(table(place(ids, rows)), columns) for table, ids in looked_up)
    return place(place(x, columns), activations)


def stacked(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` layers as one module, their parameters `[count, ...]`, each new by its own random numbers."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make))(rngs)


def run(
    layers: nnx.Module,
    x: jax.Array,
    apply: Callable[[nnx.Module, jax.Array, jax.Array, jax.Array, Vectors | None], jax.Array],
    *,
    count: int,
    remat: str,
    unroll: bool,
    activations: NamedSharding | None,
    wanted: Vectors | None = None,
) -> jax.Array:
    """x through `count` stacked layers, one after the other, by a scan; with `wanted` the last is on its own.

    apply: (layer, x, index from 0, its first dropout site, vectors of x that it shall give or None for all) -> x.
    remat: what the backward pass computes again: "none", "dots" (all but the dense products' outputs) or "full" (all
    but each layer's input). activations: how x and what each layer gives lie over the devices; see `place`. wanted:
    which vectors of the last layer are given, those alone.
    """
    graph, stack = nnx.split(layers)

    def body(x, layer, wanted=None):
        parameters, index = layer
        x = apply(nnx.merge(graph, parameters), x, index, 1 + SITES_PER_LAYER * index, wanted)
        return place(x, activations), None

    if remat != "none":
        # Inside a scan nothing can merge the two computations; unrolled, XLA would undo the remat.
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    layers = stack, jnp.arange(count)
    if wanted is None:
        return jax.lax.scan(body, place(x, activations), layers, unroll=unroll)[0]
    # By a split and not by slices, whose gradients would be two whole stacks to add up.
    leaves, tree = jax.tree.flatten(layers)
    others, last = zip(*(jax.lax.split(leaf, (count - 1, 1)) for leaf in leaves), strict=True)
    x = jax.lax.scan(body, place(x, activations), tree.unflatten(others), unroll=unroll)[0]
    return body(x, tree.unflatten(leaf[0] for leaf in last), wanted)[0]


def chosen(wanted: jax.Array | None, most: int) -> Vectors | None:
    """`most` vectors, among them those where `wanted`, boolean `[R, L]`, is true; None, which is all, for `most` 0."""
    if wanted is None or not 0 < most < wanted.size:
        return None
    flat = jnp.argsort(~wanted.ravel(), stable=True)[:most].astype(jnp.int32)
    return Vectors(flat, *jnp.divmod(flat.astype(jnp.uint32), jnp.uint32(wanted.shape[1])))


def place(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """x, and in the backward pass its gradient, laid over the devices as `sharding` says.

    Left to itself, XLA may split activations by the axis that parameters are split by: instead of each layer's
    parameters it would gather and reduce activations. An x that doesn't divide stays as it is.
    """
    if sharding is None:
        return x
    try:
        sharding.shard_shape(x.shape)
    except ValueError:
        return x
    return jax.lax.with_sharding_constraint(x, sharding)
