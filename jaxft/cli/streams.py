"""Prepares the standard streams of a command: closed ones, narrow encodings, and readers that go away."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any


def open_closed_streams() -> None:
    """Opens stdin, stdout and stderr on nothing where they are closed (`>&-`).

    The next file that is opened would get the number of a closed one, and messages would go into it. Call it before
    anything opens a file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not a stream of Python's own making
            stream.reconfigure(errors="backslashreplace")  # ascii and latin-1 terminals


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if not record.name.startswith("jaxft"):
            return super().format(record)
        return f"{record.levelname.lower()}: {record.getMessage()}"


def show_warnings() -> None:
    """Shows warnings of jaxft's loggers on stderr as other lines of a command, without the names of modules.

    Call it before imports that set up logging.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[handler])


def tell_terminal(line: str) -> None:
    """Prints a line on stderr if somebody waits there; files and pipes need no word about a start."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


class LastingStream:
    """A stream whose reader may go away: what is written after that is dropped, and the command goes on."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        with self._goes_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what the stream holds back."""
        with self._goes_on():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _goes_on(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def outlive_readers() -> None:
    """Lets the command go on when the reader of stdout or stderr goes away, as in `... | head -1`."""
    out: Any = LastingStream(sys.stdout)
    err: Any = LastingStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
