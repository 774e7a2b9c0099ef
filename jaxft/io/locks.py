"""Lets one process at a time make a file that several processes of a machine or a shared folder use."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(path: Path, work: str, *, wait: bool = True) -> Iterator[tuple[bool, bool]]:
    """Keeps out other processes that lock the same path; yields two flags, `is_held` and `has_waited`.

    The system frees the lock when the process ends for any reason. If the folder is not writable, or its file system
    has no locks, no process waits and `is_held` is True.

    Args:
      path: the file that is made, whose folder need not exist. The lock is a file next to it, and is removed.
      work: what a process that holds the lock does, for the log: "encodes the same text".
      wait: whether to wait for a process that holds the lock.
    """
    is_held, has_waited, name = True, False, f"{path}.lock"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = stack.enter_context(open(name, "wb"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not wait:
                        is_held = False
                        break
                    if not has_waited:
                        _log.info("another process %s (it holds %s); waiting for it", work, name)
                    fcntl.flock(file, fcntl.LOCK_EX)
                    has_waited = True
                if _is_file_at(file, name):
                    stack.callback(_remove, name)
                    break
        yield is_held, has_waited


def _is_file_at(file: IO[bytes], name: str) -> bool:
    """Returns whether an open file is still the one of that name: the process that held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except FileNotFoundError:
        return False


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)
