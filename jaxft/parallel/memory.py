"""Gives memory that malloc keeps back to the operating system."""

import ctypes
import sys


def release_memory() -> None:
    """Gives back what was freed but malloc keeps.

    To be called after compilation (170 of 1,458 MiB with a small GPT-2's step) and after a checkpoint is written (0.4
    to 0.9 GiB of 1.4 GiB written). Does nothing where glibc isn't the allocator.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
