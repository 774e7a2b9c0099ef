"""Makes the layers of a backbone as one stack, runs them one after the other, and takes stacks apart."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.layers import parameter_paths
from jaxft.layers.attention.interface import Prefix, layer_prefix
from jaxft.layers.dropout import SITES_PER_LAYER, DropoutSeed, LayerDropout, layer_dropout
from jaxft.layers.output_positions import OutputPositions
from jaxft.layers.runtime import REMAT_POLICIES, Runtime
from jaxft.layers.sharding import constrain_sharding

Layer = TypeVar("Layer", bound=nnx.Module)
LayerFunction: TypeAlias = Callable[
    [Layer, jax.Array, jax.Array, jax.Array, OutputPositions | None], jax.Array
]


def make_stack(make: Callable[[nnx.Rngs], Layer], count: int, rngs: nnx.Rngs) -> Layer:
    """Returns `count` layers as one module, with parameters `[count, ...]`. Each layer has its own random numbers."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make))(rngs)


def run_layers(
    layers: Layer,
    x: jax.Array,
    layer_functions: Sequence[LayerFunction[Layer]],
    runtime: Runtime,
    output_positions: OutputPositions | None,
    *,
    rows: int,
    dropout: DropoutSeed | None,
    prefix: Callable[[], Prefix] | None = None,
) -> jax.Array:
    """Runs x through stacked layers by scans, over the layers or over periods of layers of several kinds.

    Args:
      layers: the stack, from `make_stack`.
      x: flat `[R * L, D]`.
      layer_functions: what each layer does; layers of one kind have the same function. It is called with the layer, x,
        the layer's index from 0, its first dropout site, and the positions whose vectors to return, or None for all. It
        returns the new x.
      runtime: says what the backward pass computes again, whether the scan is unrolled, and the sharding of x and of
        each layer's output.
      output_positions: the positions to return; None for all. If set, the last layer runs outside the scan and computes
        only these.
      rows: R.
      dropout: the seed of the dropout of adapters; None for no dropout.
      prefix: returns keys and values that all positions see, for each layer `[layers, P, D]`; None for none.

    Returns:
      The last layer's output, flat `[R * L, D]`, or `[N, D]` for N output positions.
    """
    graph, parameters = nnx.split(layers)
    slots, remat, unroll, activations = len(x), runtime.remat, runtime.unroll, runtime.activations

    def make_step(function, *, is_looped):
        def run_layer(x, layer, output_positions=None):
            parameters, index, prefix = layer
            site = 1 + SITES_PER_LAYER * index
            dropout_here = LayerDropout(dropout, site, rows, slots, output_positions)
            with layer_dropout(dropout_here), layer_prefix(prefix):
                x = function(nnx.merge(graph, parameters), x, index, site, output_positions)
            return constrain_sharding(x, activations), None

        if remat == "none":
            return run_layer
        # In unrolled layers XLA would merge the two computations and so undo the remat. In a loop it cannot.
        return jax.checkpoint(run_layer, policy=REMAT_POLICIES[remat], prevent_cse=not is_looped)

    def run_each(x, layers, functions, *, is_looped):
        for function, layer in zip(functions, _unstack_tree(layers), strict=True):
            x, _ = make_step(function, is_looped=is_looped)(x, layer)
        return x, None

    inner = layer_functions if output_positions is None else layer_functions[:-1]
    periods = find_periods(inner, unroll=unroll)
    sizes = [len(functions) * count for functions, count in periods]
    if output_positions is not None:
        sizes.append(1)
    of_layers = parameters, jnp.arange(len(layer_functions)), None if prefix is None else prefix()
    pieces = _split_tree(of_layers, sizes)
    x = constrain_sharding(x, activations)
    for (functions, count), piece in zip(periods, pieces, strict=False):
        if len(functions) == 1 and count > 1:
            x, _ = jax.lax.scan(make_step(functions[0], is_looped=not unroll), x, piece, unroll=unroll)
        elif count > 1:
            by_period = jax.tree.map(lambda leaf, n=count: leaf.reshape(n, -1, *leaf.shape[1:]), piece)
            run_period = functools.partial(run_each, functions=functions, is_looped=True)
            x, _ = jax.lax.scan(run_period, x, by_period)
        else:
            x, _ = run_each(x, piece, functions, is_looped=False)
    if output_positions is None:
        return x
    [last] = _unstack_tree(pieces[-1])
    return make_step(layer_functions[-1], is_looped=False)(x, last, output_positions)[0]


def find_periods(
    functions: Sequence[LayerFunction[Layer]], *, unroll: bool
) -> list[tuple[Sequence[LayerFunction[Layer]], int]]:
    """Divides layers into pieces that are written out once in a program, with the number of times that each comes.

    First are layers whose kind does not come again, then the shortest period of the others, then what remains. If the
    loop is unrolled, layers of several kinds are one piece.
    """
    if len(set(functions)) < 2:
        pieces = [(functions[:1], len(functions))]
    elif unroll:
        pieces = [(functions, 1)]
    else:
        first = (
            next(i for i, f in enumerate(functions, start=1) if f in functions[i:] or i == len(functions)) - 1
        )
        others = functions[first:]
        period = next(n for n in range(1, len(others) + 1) if others[n:] == others[: len(others) - n])
        count = len(others) // period
        pieces = [(functions[:first], 1), (others[:period], count), (others[count * period :], 1)]
    return [(piece, count) for piece, count in pieces if piece]


def _split_tree(tree: Any, sizes: Sequence[int]) -> list[Any]:
    """Splits the first axis of each array, and returns a tree for each piece.

    They are split, not sliced: the gradients of slices would be entire stacks, to be added.
    """
    if len(sizes) == 1:
        return [tree]
    leaves, structure = jax.tree.flatten(tree)
    pieces = zip(*(jax.lax.split(leaf, sizes) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, piece) for piece in pieces]


def _unstack_tree(tree: Any) -> list[Any]:
    """Returns a tree for each index of the first axis of the arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, layer) for layer in zip(*map(jnp.unstack, leaves), strict=True)]


def is_stack(name: str) -> bool:
    """Returns whether the parameter at path `name` is a stack of layers `[layers, ...]`."""
    return name.startswith("backbone/layers/")


def number_of_stage(name: str) -> int | None:
    """Returns the stage of layers of other shapes, from 0, that the parameter at path `name` belongs to, if any."""
    stage = re.match(r"backbone/stages/(\d+)/", name)
    return None if stage is None else int(stage[1])


def depth_of(name: str) -> float:
    """Returns how high the parameter at path `name` stands: 0 for what the first layer reads, then layers, then more.

    All layers of a stack have 1, those of a stage its number from 1, and what stands above them infinity.
    """
    if (stage := number_of_stage(name)) is not None:
        return 1 + stage
    return 1 if is_stack(name) else math.inf if is_above_stacks(name) else 0


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
    """Multiplies a parameter by a number, or by one for each layer.

    Args:
      value: a stack of layers, or a tuple with an array for each; or another parameter.
      factor: a number; numbers `[n]` for n stacked layers; or `[n, 1]` for layers next to each other in the last
        dimension.
    """
    if not isinstance(factor, np.ndarray):
        return jax.tree.map(lambda v: factor * v, value)
    if factor.ndim == 2:
        return (value.reshape(*value.shape[:-1], len(factor), -1) * factor).reshape(value.shape)
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
