"""Keeps reads and writes that orbax abandoned from printing stack traces.

Orbax reads or writes all arrays of a checkpoint at once. If one fails, it raises an exception and closes its event
loop. Each of the others then prints a trace: its coroutine fails unheard, or its thread finds the loop closed.
"""

import functools
import inspect
import sys
from typing import Any


@functools.cache
def hide_abandoned_work() -> None:
    """Hides the traces of abandoned reads and writes for the rest of the process, because they may come late."""
    print_unraisable = sys.unraisablehook

    def print_others(unraisable: Any) -> None:
        source, error = unraisable.object, unraisable.exc_value
        is_coroutine = inspect.iscoroutine(source) and "orbax" in source.cr_code.co_filename
        is_thread = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (is_coroutine or is_thread):
            print_unraisable(unraisable)

    sys.unraisablehook = print_others
