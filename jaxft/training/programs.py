"""Compiles programs, each of them once in a process."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

KEPT = 64  # the most programs that are kept
# The number of values of the largest array of a batch, such as tokens, from which on CPU OWN_PRODUCTS are quicker.
LARGE_BATCH = 4096
OWN_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": ""}

_programs: dict[Any, jax.stages.Compiled] = {}  # the newest last


def compile_once(lowered: jax.stages.Lowered, mesh: Mesh, options: dict[str, Any] | None = None) -> Any:
    """Compiles a program, or returns the program of the same text that this process has compiled before.

    So a second run in a process does not compile what the first has compiled. jax itself knows a program by the
    Python function from which it is made, and each run makes its own.

    Args:
      lowered: the program. Its function must be jitted with `keep_unused`, so that the text has all arguments.
      mesh: the devices on which it runs.
      options: the compiler's options.

    Returns:
      The compiled program.
    """
    program = lowered.as_text()
    if "callback" in program:  # of which the text does not tell one from another
        return lowered.compile(compiler_options=options)
    text = hashlib.sha256(program.encode()).digest()
    devices = tuple(mesh.devices.flat)
    key = (text, lowered.in_tree, lowered.out_tree, devices, tuple(sorted((options or {}).items())))
    if key not in _programs:
        _programs[key] = lowered.compile(compiler_options=options)
        if len(_programs) > KEPT:
            del _programs[next(iter(_programs))]
    return _programs[key]


def find_options(
    batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh, *, is_deterministic: bool = False
) -> dict[str, Any]:
    """Returns the compiler's options for a program that computes batches.

    Args:
      batch: the arrays of a batch.
      mesh: the devices on which the program runs.
      is_deterministic: whether to ask for the same bits in each run. By default XLA:GPU sums the gradients of
        embeddings by atomic additions, and chooses kernels by timing them.
    """
    platform = mesh.devices.flat[0].platform
    if platform == "gpu" and is_deterministic:
        return {"xla_gpu_deterministic_ops": True}
    # XLA has YNNPACK multiply on CPUs, which for large batches leaves cores idle. Without it chunked attention takes
    # half of the time, and a step of a ModernBERT with 8,192 tokens in a row four fifths (benchmarks/long_rows.py).
    # Steps with 256 or 512 tokens take a tenth longer.
    if platform == "cpu" and max(array.size for array in batch.values()) >= LARGE_BATCH and _has_ynnpack():
        return OWN_PRODUCTS
    return {}


@functools.cache
def _has_ynnpack() -> bool:
    """Says whether this version of XLA has YNNPACK and its option."""
    try:
        jax.jit(lambda: 0, compiler_options=OWN_PRODUCTS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
