"""Chooses a run's attention implementation."""

import re
from collections.abc import Set

import jax
import jax.numpy as jnp

from jaxft.errors import UserError
from jaxft.layers.attention.interface import Feature
from jaxft.layers.attention.limits import LIMITS, find_obstacle

PLATFORM_KERNELS = {"tpu": "splash", "gpu": "flash"}
# The shortest rows for which "auto" chooses a kernel. Flash's length is measured (H100, rows of 64 to 1,024 slots);
# splash's is a guess.
MIN_KERNEL_LENGTHS = {"splash": 512, "flash": 64}


def choose_attention(
    requested: str,
    *,
    length: int,
    head_width: int,
    dropout: float,
    features: Set[Feature],
    dtype: jnp.dtype,
    platform: str,
) -> str:
    """Returns the name of the attention implementation that training and evaluation use.

    Args:
      requested: `config.model.attention`. "auto" means the platform's kernel if rows have at least
        `MIN_KERNEL_LENGTHS` slots and the kernel can compute them, else "dense".
      length: the number of slots in a row.
      head_width: the width of a head.
      dropout: the rate of the dropout of attention weights.
      features: what the model's layers ask of attention, without dropout.
      dtype: the dtype of the computation.
      platform: "cpu", "gpu" or "tpu".

    Raises:
      UserError: the requested kernel cannot run.
    """
    is_auto = requested == "auto"
    name = PLATFORM_KERNELS.get(platform, "dense") if is_auto else requested
    if name == "dense" or (is_auto and length < MIN_KERNEL_LENGTHS[name]):
        return "dense"
    obstacle = find_obstacle(name, features=features, length=length, head_width=head_width, dtype=dtype)
    if LIMITS[name].platform != platform or (name == "flash" and not _gpu_runs_flash()):
        obstacle = f"cannot run on this {platform}"
    elif dropout and Feature.DROPOUT not in LIMITS[name].features:
        obstacle = f"has no dropout of attention weights, here {dropout}; set config.model.dropout=0.0"
    if obstacle and not is_auto:
        raise UserError(f"config.model.attention={name!r} {obstacle}; 'dense' computes the same")
    return "dense" if obstacle else name


def _gpu_runs_flash() -> bool:
    """Returns whether this machine has an NVIDIA GPU of compute capability 8.0 (Ampere) or later.

    AMD GPUs report a name, such as gfx942, as their capability.
    """
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0
