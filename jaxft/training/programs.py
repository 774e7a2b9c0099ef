"""Compiles programs, each of them once in a process."""

import hashlib
from typing import Any

import jax
from jax.sharding import Mesh

KEPT = 64  # the most programs that are kept

_programs: dict[Any, jax.stages.Compiled] = {}  # the newest last


def compile_once(lowered: jax.stages.Lowered, mesh: Mesh, options: dict[str, Any] | None = None) -> Any:
    """Compiles a program, or returns the program of the same text that this process has compiled before.

    So a second run in a process does not compile what the first has compiled. jax itself knows a program by the
    Python function from which it is made, and each run makes its own.

    Args:
      lowered: the program. Its function must be jitted with `keep_unused`, so that the text has all arguments.
      mesh: the devices on which it runs.
      options: the compiler's options with which its function is jitted.

    Returns:
      The compiled program.
    """
    program = lowered.as_text()
    if "callback" in program:  # of which the text does not tell one from another
        return lowered.compile()
    text = hashlib.sha256(program.encode()).digest()
    devices = tuple(mesh.devices.flat)
    key = (text, lowered.in_tree, lowered.out_tree, devices, tuple(sorted((options or {}).items())))
    if key not in _programs:
        _programs[key] = lowered.compile()
        if len(_programs) > KEPT:
            del _programs[next(iter(_programs))]
    return _programs[key]
