"""Says how much memory devices have, and returns freed memory to the operating system."""

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path
from typing import Any

import jax

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # "max", or the bytes that a container may have


def release_memory() -> None:
    """Returns to the operating system the freed memory that malloc keeps.

    Call it after compilation (it returns 170 of 1,458 MiB for a small GPT-2's step) and after a checkpoint is written
    (0.4 to 0.9 GiB of the 1.4 GiB written). It does nothing if glibc is not the allocator.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def shard_bytes(tree: Any) -> int:
    """Returns the bytes that each device holds of a tree of abstract arrays with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def device_memory() -> int | None:
    """Returns the bytes of memory of a device of this process, or None if that is unknown.

    Devices of a CPU share the machine's memory, or the container's if that has less.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = []
    with contextlib.suppress(ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ValueError, OSError):
        limits.append(int(CGROUP_LIMIT.read_text()))
    return min(limits) // jax.local_device_count() if limits else None
