"""Converts flat parameters between stacks over layers and separate arrays for each layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def unstack(parameters: dict[str, jax.Array]) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
    """Replaces each stack `[layers, ...]` of flat parameters by a tuple with an array `[...]` for each layer."""
    return {
        name: tuple(jnp.unstack(value)) if name.startswith("backbone/layers/") else value
        for name, value in parameters.items()
    }


def stack(parameters: dict[str, jax.Array | tuple[jax.Array, ...]]) -> dict[str, jax.Array]:
    """Undoes `unstack`.

    Traced before a loop over layers, it costs nothing: XLA replaces a slice of the stack by the array it came from.
    """
    return {
        name: jnp.stack(value) if isinstance(value, tuple) else value for name, value in parameters.items()
    }


def map_parameter_dicts(change: Callable[[dict], dict], state: Any) -> Any:
    """Applies `change` to each dict in `state`: the parameters, and the optimizer's moments."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )
