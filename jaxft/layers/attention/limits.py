"""Declares what each attention implementation can compute, without importing it: kernels' libraries load slowly."""

import dataclasses
from collections.abc import Callable, Set

import jax.numpy as jnp

from jaxft.layers.attention.interface import Feature

LANES = 128  # the lanes of a TPU's vector registers
FLASH_BLOCK = 64  # the queries or keys of one flash block: the quickest of 32, 64 and 128 on an H100


def choose_splash_block(length: int) -> int:
    """Returns the queries or keys of one splash block, in rows of `length` slots."""
    return next((size for size in (512, 256) if length % size == 0), LANES)


def _find_splash_obstacle(length: int, head_width: int, dtype: jnp.dtype) -> str | None:
    """Returns what splash_attention_kernel.py of jax 0.10.2 would refuse."""
    del head_width, dtype
    return f"takes rows of a multiple of {LANES}, not {length}" if length % LANES else None


def _find_flash_obstacle(length: int, head_width: int, dtype: jnp.dtype) -> str | None:
    if dtype != jnp.bfloat16:
        return f"computes in bfloat16, not {jnp.dtype(dtype).name}"
    if head_width not in (16, 32, 64, 128):
        return f"takes heads of 16, 32, 64 or 128, not {head_width}"
    return f"takes rows of a multiple of {FLASH_BLOCK}, not {length}" if length % FLASH_BLOCK else None


@dataclasses.dataclass(frozen=True)
class Limits:
    """Says what an implementation can compute.

    Attributes:
      features: what it has.
      platform: the only platform that runs it; None if all do.
      find_shape_obstacle: returns why it cannot compute a length of rows, a width of heads and a dtype; None if it can.
    """

    features: frozenset[Feature]
    platform: str | None = None
    find_shape_obstacle: Callable[[int, int, jnp.dtype], str | None] = lambda length, head_width, dtype: None


LIMITS = {
    "dense": Limits(frozenset(Feature)),
    "chunked": Limits(frozenset(Feature)),
    "flash": Limits(
        frozenset({Feature.CAUSAL, Feature.WINDOW, Feature.DROPOUT}), "gpu", _find_flash_obstacle
    ),
    "splash": Limits(frozenset({Feature.CAUSAL, Feature.WINDOW}), "tpu", _find_splash_obstacle),
}
KERNELS = frozenset(name for name, limits in LIMITS.items() if limits.platform)


def find_obstacle(
    name: str, *, features: Set[Feature], length: int, head_width: int, dtype: jnp.dtype
) -> str | None:
    """Returns why an implementation cannot compute attention, as the rest of a sentence; None if it can.

    Args:
      name: a key of `LIMITS`.
      features: what is asked for.
      length: the number of slots in a row.
      head_width: the width of a head.
      dtype: the dtype of queries, keys and values.
    """
    limits = LIMITS[name]
    missing = [feature.value for feature in Feature if feature in features and feature not in limits.features]
    if missing:
        return f"{missing[0]}, which this model needs"
    return limits.find_shape_obstacle(length, head_width, dtype)
