"""Chooses a run's attention implementation."""

import re
from collections.abc import Set
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.errors import UserError
from jaxft.layers.attention.interface import Feature
from jaxft.layers.attention.limits import LIMITS, find_obstacle

PLATFORM_KERNELS = {"tpu": "splash", "gpu": "flash"}
# The shortest rows for which "auto" chooses a kernel. Flash's length is measured (H100, rows of 64 to 1,024 slots);
# splash's is a guess.
MIN_KERNEL_LENGTHS = {"splash": 512, "flash": 64}
# The shortest rows for which it chooses chunked attention and not dense, without and with a window. On CPU chunked
# attention is quicker from 256 slots, but short rows may be in blocks, which it does not use. The lengths elsewhere are
# guesses.
MIN_CHUNKED_LENGTHS = {"cpu": (1024, 256)}
MIN_CHUNKED_LENGTHS_ELSEWHERE = (2048, 2048)


class AttentionChoice(NamedTuple):
    """The implementations that training and evaluation use.

    Attributes:
      name: the implementation.
      windowed_name: that of layers with a window; None for the same.
      reason: why "auto" passed over the platform's kernel; None if it did not.
    """

    name: str
    windowed_name: str | None = None
    reason: str | None = None


def choose_attention(
    requested: str,
    *,
    length: int,
    head_width: int,
    dropout: float,
    features: Set[Feature],
    dtype: jnp.dtype,
    platform: str,
) -> AttentionChoice:
    """Chooses the attention implementations that training and evaluation use.

    Args:
      requested: `config.model.attention`. "auto" means the platform's kernel if it can compute the rows and they have
        at least `MIN_KERNEL_LENGTHS` slots; else chunked attention if they have at least `MIN_CHUNKED_LENGTHS` slots;
        else dense attention.
      length: the number of slots in a row.
      head_width: the width of a head.
      dropout: the rate of the dropout of attention weights.
      features: what the model's layers ask of attention, without dropout.
      dtype: the dtype of the computation.
      platform: "cpu", "gpu" or "tpu".

    Raises:
      UserError: the requested implementation cannot run.
    """

    def find_any_obstacle(name: str) -> str | None:
        limits = LIMITS[name]
        if limits.platform not in (None, platform) or (name == "flash" and not _gpu_runs_flash()):
            return f"cannot run on this {platform}"
        if dropout and Feature.DROPOUT not in limits.features:
            return f"{Feature.DROPOUT.value}, here {dropout}; set config.model.dropout=0.0"
        return find_obstacle(name, features=features, length=length, head_width=head_width, dtype=dtype)

    if requested != "auto":
        if obstacle := find_any_obstacle(requested):
            raise UserError(f"config.model.attention={requested!r} {obstacle}; 'dense' computes the same")
        return AttentionChoice(requested)
    reason, kernel = None, PLATFORM_KERNELS.get(platform)
    if kernel is not None:
        least, obstacle = MIN_KERNEL_LENGTHS[kernel], find_any_obstacle(kernel)
        if not obstacle and length < least:
            obstacle = f"is for rows of {least} slots or more, not {length}"
        if not obstacle:
            return AttentionChoice(kernel)
        reason = f"{kernel} {obstacle}"
    least, least_with_window = MIN_CHUNKED_LENGTHS.get(platform, MIN_CHUNKED_LENGTHS_ELSEWHERE)
    name = "chunked" if length >= least else "dense"
    uses_chunks = Feature.WINDOW in features and name == "dense" and length >= least_with_window
    return AttentionChoice(name, "chunked" if uses_chunks else None, reason)


def _gpu_runs_flash() -> bool:
    """Returns whether this machine has an NVIDIA GPU of compute capability 8.0 (Ampere) or later.

    AMD GPUs report a name, such as gfx942, as their capability.
    """
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0
