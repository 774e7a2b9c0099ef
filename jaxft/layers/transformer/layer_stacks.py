"""Makes the layers of a backbone as one stack, runs them one after the other, and takes stacks apart."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers import parameter_paths
from jaxft.layers.dropout import SITES_PER_LAYER, DropoutSeed, layer_dropout
from jaxft.layers.output_positions import OutputPositions
from jaxft.layers.sharding import constrain_sharding
from jaxft.parallel.sharded_matmul import PRODUCT

Layer = TypeVar("Layer", bound=nnx.Module)

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    # Keeps the outputs of the dense products; computes norms, activations and attention weights again.
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(PRODUCT)
    ),
    # Keeps only the input of each layer.
    "full": _policies.nothing_saveable,
}


def make_stack(make: Callable[[nnx.Rngs], Layer], count: int, rngs: nnx.Rngs) -> Layer:
    """Returns `count` layers as one module, with parameters `[count, ...]`. Each layer has its own random numbers."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make))(rngs)


def run_layers(
    layers: Layer,
    x: jax.Array,
    apply: Callable[[Layer, jax.Array, jax.Array, jax.Array, OutputPositions | None], jax.Array],
    *,
    count: int,
    remat: str,
    unroll: bool,
    activations: NamedSharding | None,
    rows: int,
    dropout: DropoutSeed | None,
    output_positions: OutputPositions | None = None,
) -> jax.Array:
    """Runs x through stacked layers by a scan.

    Args:
      layers: the stack, from `make_stack`.
      x: flat `[R * L, D]`.
      apply: called with a layer, x, the layer's index from 0, its first dropout site, and the positions whose vectors
        to return, or None for all. Returns the new x.
      count: the number of layers.
      remat: what the backward pass computes again: "none", "dots" (all but the outputs of the dense products) or "full"
        (all but the input of each layer).
      unroll: whether to unroll the scan.
      activations: the sharding of x and of each layer's output; see `constrain_sharding`.
      rows: R.
      dropout: the seed of the dropout of adapters; None for no dropout.
      output_positions: the positions to return; None for all. If set, the last layer runs outside the scan and computes
        only these.

    Returns:
      The last layer's output, flat `[R * L, D]`, or `[N, D]` for N output positions.
    """
    graph, parameters = nnx.split(layers)

    def run_layer(x, layer, output_positions=None):
        parameters, index = layer
        site = 1 + SITES_PER_LAYER * index
        with layer_dropout(dropout, site, rows, output_positions):
            x = apply(nnx.merge(graph, parameters), x, index, site, output_positions)
        return constrain_sharding(x, activations), None

    if remat != "none":
        # In unrolled layers XLA would merge the two computations and so undo the remat. In a scan it cannot.
        run_layer = jax.checkpoint(run_layer, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    indexed = parameters, jnp.arange(count)
    if output_positions is None:
        return jax.lax.scan(run_layer, constrain_sharding(x, activations), indexed, unroll=unroll)[0]
    # Split, not sliced: the gradients of two slices would be two entire stacks, to be added.
    leaves, tree = jax.tree.flatten(indexed)
    others, last = zip(*(jax.lax.split(leaf, (count - 1, 1)) for leaf in leaves), strict=True)
    x = jax.lax.scan(
        run_layer, constrain_sharding(x, activations), jax.tree.unflatten(tree, others), unroll=unroll
    )[0]
    return run_layer(x, jax.tree.unflatten(tree, [leaf[0] for leaf in last]), output_positions)[0]


def is_stack(name: str) -> bool:
    """Returns whether the parameter at path `name` is a stack of layers `[layers, ...]`."""
    return name.startswith("backbone/layers/")


def is_above_stacks(name: str) -> bool:
    """Returns whether the parameter at path `name` reads what layers return: a last norm, a pooler or a head."""
    return name.startswith(("backbone/norm/", "backbone/pooler/")) or not name.startswith("backbone/")


def unstack(parameters: Mapping[str, jax.Array]) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
    """Replaces each stack `[layers, ...]` of flat parameters by a tuple with an array `[...]` for each layer."""
    return {
        name: tuple(jnp.unstack(value)) if is_stack(name) else value for name, value in parameters.items()
    }


def stack(parameters: Mapping[str, jax.Array | tuple[jax.Array, ...]]) -> dict[str, jax.Array]:
    """Undoes `unstack`.

    Traced before a loop over layers, it costs nothing: XLA replaces a slice of the stack by the array it came from.
    """
    return {
        name: jnp.stack(value) if isinstance(value, tuple) else value for name, value in parameters.items()
    }


def find_layer_axes(tree: Any) -> Any:
    """Returns the axis of the layers in each leaf of `tree`: 0 in stacks, None in other leaves.

    Args:
      tree: parameters by path, stacked or not, or a state that holds such dicts.
    """

    def layer_axis(path, _):
        return 0 if isinstance(path[-1], jax.tree_util.DictKey) and is_stack(path[-1].key) else None

    return jax.tree_util.tree_map_with_path(layer_axis, tree)


def scale_layers(value: Any, factor: float | np.ndarray) -> Any:
    """Multiplies a stack of layers, or a tuple with an array for each, by a number or by one for each layer [n]."""
    if not isinstance(factor, np.ndarray):
        return jax.tree.map(lambda v: factor * v, value)
    if isinstance(value, tuple):
        return tuple(v * f for v, f in zip(value, factor, strict=True))
    return value * factor.reshape(-1, *[1] * (value.ndim - 1))


def nest_parameters(parameters: Mapping[str, jax.Array | tuple[jax.Array, ...]]) -> dict[str, Any]:
    """Returns flat parameters, stacked or not, as the nested dicts of stacks from which a module is merged."""
    return parameter_paths.unflatten(stack(parameters))


def map_parameter_dicts(change: Callable[[dict[str, Any]], dict[str, Any]], state: Any) -> Any:
    """Applies `change` to each dict in `state`: the parameters, and the optimizer's moments."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )
