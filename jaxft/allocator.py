"""Asks glibc for huge pages, since XLA:CPU allocates a step's temporaries anew at every step."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"  # malloc marks its memory with madvise(MADV_HUGEPAGE); glibc 2.35 or newer


def use_huge_pages() -> None:
    """Starts this command again with the tunable set, which glibc reads only at the start of a process.

    To be called before slow imports. Does nothing where it is set, or glibc isn't the allocator.
    XLA:CPU's block of temporaries (350 MB for a MiniLM step of 8 x 128) is mapped, zeroed and unmapped at
    each step; in pages of 4 KiB that took a sixth of the CPU time, in pages of 2 MiB half of that.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables:
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{tunables}:{TUNABLE}".lstrip(":")}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
