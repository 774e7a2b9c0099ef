"""Prepares the process of a command: huge pages, no torch, a cache of compiled programs, a quick end."""

import atexit
import gc
import logging
import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"  # malloc marks its memory with madvise(MADV_HUGEPAGE); glibc 2.35 or newer


def use_huge_pages() -> None:
    """Starts this command again with the tunable set, because glibc reads it only at the start of a process.

    Call it before slow imports. It does nothing if the tunable is set, or if glibc is not the allocator. XLA:CPU maps,
    zeroes and unmaps its block of temporaries (350 MB for a MiniLM step of 8 x 128) at each step. With pages of 4 KiB
    that took a sixth of the CPU time; with pages of 2 MiB it took half of that.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables:
        return
    environment = os.environ | {"GLIBC_TUNABLES": f"{tunables}:{TUNABLE}".lstrip(":")}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def end_quickly() -> None:
    """Lets the process end without a last garbage collection, which visits all objects of all imported modules.

    That took 1.1 s of CPU time after the imports of `predict`, a sixth of a command that only reports a mistake, and on
    a busy machine the command seemed to hang. Functions that are registered by `atexit` earlier run later.
    """
    atexit.register(gc.freeze)


def leave_torch_out() -> None:
    """Imports transformers' tokenizers without torch. If torch is installed, they would import it.

    Call it in a command that does not need torch, before other code imports transformers. It saves 180 MiB and two
    seconds. It does nothing if torch is already imported.
    """
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # import then fails
    from jaxft.hub.tokenizers import import_transformers

    import_transformers()
    import transformers.models.auto.tokenization_auto  # noqa: F401  transformers remembers that there is no torch

    del sys.modules["torch"]


def use_compilation_cache() -> None:
    """Caches compiled programs for the next start, in JAX_COMPILATION_CACHE_DIR or ~/.cache/jaxft/xla.

    Warns if the folder in the user's home cannot be made, as in a container without a home.
    """
    import jax  # not at the top: `use_huge_pages` comes before slow imports

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path.home() / ".cache" / "jaxft" / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
        except OSError as error:
            logging.getLogger(__name__).warning(
                "compiled programs are not kept for the next start, for %s cannot be made (%s); set "
                "JAX_COMPILATION_CACHE_DIR to another folder",
                folder,
                error.strerror,
            )
    # Small programs are cached too: with jax's limit of 1 s a second start would compile dozens again.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
