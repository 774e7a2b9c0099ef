"""What backbones are built of besides layers.py: the MLP, and how their layers are stacked, run and recomputed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.output_positions import OutputPositions
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


def check_network_options(*, hidden_size: int, num_heads: int, activation: str, remat: str) -> None:
    """Raises ValueError for options that no backbone can have."""
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {sorted(ACTIVATIONS)}")
    if remat not in ("none", *REMAT_POLICIES):
        raise ValueError(f"remat {remat!r} is none of {['none', *REMAT_POLICIES]}")


def layer_layout(activations: NamedSharding | None, *, remat: str, unroll: bool) -> ActivationLayout | None:
    """What layers are told of how activations lie over devices."""
    # In a loop passes share nothing. What is computed again is, with the backward pass, apart from the forward pass.
    return None if activations is None else ActivationLayout(activations, again=unroll and remat == "none")


def make_stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` layers as one module, their parameters `[count, ...]`, each new by its own random numbers."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make))(rngs)


def run_layers(
    layers: nnx.Module,
    x: jax.Array,
    apply: Callable[[nnx.Module, jax.Array, jax.Array, jax.Array, OutputPositions | None], jax.Array],
    *,
    count: int,
    remat: str,
    unroll: bool,
    activations: NamedSharding | None,
    output_positions: OutputPositions | None = None,
) -> jax.Array:
    """x through `count` stacked layers, one after the other, by a scan; with `output_positions` the last is on its own.

    apply: (layer, x, index from 0, its first dropout site, vectors of x that it shall give or None for all) -> x.
    remat: what the backward pass computes again: "none", "dots" (all but the dense products' outputs) or "full" (all
    but each layer's input). activations: how x and what each layer gives lie over the devices; see `place`. output_positions:
    which vectors of the last layer are given, those alone.
    """
    graph, stack = nnx.split(layers)

    def body(x, layer, output_positions=None):
        parameters, index = layer
        x = apply(nnx.merge(graph, parameters), x, index, 1 + SITES_PER_LAYER * index, output_positions)
        return constrain_sharding(x, activations), None

    if remat != "none":
        # Inside a scan nothing can merge the two computations; unrolled, XLA would undo the remat.
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    layers = stack, jnp.arange(count)
    if output_positions is None:
        return jax.lax.scan(body, constrain_sharding(x, activations), layers, unroll=unroll)[0]
    # By a split and not by slices, whose gradients would be two whole stacks to add up.
    leaves, tree = jax.tree.flatten(layers)
    others, last = zip(*(jax.lax.split(leaf, (count - 1, 1)) for leaf in leaves), strict=True)
    x = jax.lax.scan(body, constrain_sharding(x, activations), tree.unflatten(others), unroll=unroll)[0]
    return body(x, tree.unflatten(leaf[0] for leaf in last), output_positions)[0]


def constrain_sharding(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
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


def unstack(parameters: dict[str, jax.Array]) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
    """Flat parameters with a tuple of `[...]` in place of each stack `[layers, ...]`."""
    return {
        name: tuple(jnp.unstack(value)) if name.startswith("backbone/layers/") else value
        for name, value in parameters.items()
    }


def stack(parameters: dict[str, jax.Array | tuple[jax.Array, ...]]) -> dict[str, jax.Array]:
    """Undoes `apart`. Traced before a loop over layers it computes nothing: XLA takes a slice for what was stacked."""
    return {
        name: jnp.stack(value) if isinstance(value, tuple) else value for name, value in parameters.items()
    }


def map_parameter_dicts(change: Callable[[dict], dict], state: Any) -> Any:
    """`state` with `change` made to each of its dicts of parameters (and of their moments)."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )
