"""Keeps orbax from logging each phase of a save, and from printing traces of reads and writes that it abandoned.

Orbax reads or writes all arrays of a checkpoint at once. If one fails, it raises an exception and closes its event
loop. Each of the others then prints a trace: its coroutine fails unheard, or its thread finds the loop closed.
`RunCheckpoints` logs a failure once.
"""

import contextlib
import inspect
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

_LOGGERS = ("absl", "asyncio")
_lock = threading.Lock()
_users = 0  # of `orbax_quieted` at this time, in all threads
_undo = contextlib.ExitStack()  # restores the process when the last of them is done


@contextlib.contextmanager
def orbax_quieted() -> Iterator[None]:
    """Hides what orbax logs and prints while the block runs. Afterwards the process is as it was."""
    _begin()
    try:
        yield
    finally:
        _end()


def quiet_orbax() -> None:
    """Hides what orbax logs and prints for the rest of the process, because traces may come late. For commands."""
    _begin()


def _begin() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for logger in map(logging.getLogger, _LOGGERS):
                _undo.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL)
            _undo.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
            sys.unraisablehook = _make_hook(sys.unraisablehook)


def _end() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _undo.close()


def _make_hook(print_unraisable: Any) -> Any:
    """Returns a hook that hides abandoned work of orbax and passes everything else on."""

    def print_others(unraisable: Any) -> None:
        source, error = unraisable.object, unraisable.exc_value
        is_coroutine = inspect.iscoroutine(source) and "orbax" in source.cr_code.co_filename
        is_thread = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (is_coroutine or is_thread):
            print_unraisable(unraisable)

    return print_others
