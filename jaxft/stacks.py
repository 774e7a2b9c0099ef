"""Stacks of layers' parameters taken apart, for a train step that would cut them, and put together again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apart(parameters: dict[str, jax.Array]) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
    """Flat parameters with a tuple of `[...]` in place of each stack `[layers, ...]`."""
    return {
        name: tuple(jnp.unstack(value)) if name.startswith("body/layers/") else value
        for name, value in parameters.items()
    }


def together(parameters: dict[str, jax.Array | tuple[jax.Array, ...]]) -> dict[str, jax.Array]:
    """Undoes `apart`. Traced before a loop over layers it computes nothing: XLA takes a slice for what was stacked."""
    return {
        name: jnp.stack(value) if isinstance(value, tuple) else value for name, value in parameters.items()
    }


def of_state(change: Callable[[dict], dict], state: Any) -> Any:
    """`state` with `change` made to each of its dicts of parameters (and of their moments)."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )
