"""Opens the output of a verb."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxft.errors import UserError
from jaxft.parallel import processes


@contextlib.contextmanager
def open_output(name: str) -> Iterator[Callable[[list[bytes]], None]]:
    """Gives a function that writes to stdout ("-") or a file, at once.

    A file gets its name when the body ends without an error, and so is whole or not there; what can't be
    renamed (a device, a named pipe) is written directly. Raises `UserError` where it cannot be written.
    """
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--output {name}: is a folder; give a file's name, or - for stdout")
    if not processes.is_main_process():
        yield lambda pieces: None  # process 0 writes
        return
    direct = name == "-" or (path.exists() and not path.is_file())
    unfinished = path if direct else path.with_name(f".{path.name}.unfinished-{os.getpid()}")

    @contextlib.contextmanager
    def errors_named() -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"--output {name}: cannot be written: {error.strerror or error}") from None

    def write(pieces: list[bytes]) -> None:
        with errors_named():
            file.write(b"".join(pieces))
            file.flush()

    with errors_named():
        file = sys.stdout.buffer if name == "-" else open(unfinished, "wb")
    try:
        yield write
        if name != "-":
            with errors_named():
                file.close()
                if not direct:
                    unfinished.replace(path)
    finally:
        if name != "-":
            with contextlib.suppress(OSError):  # of what could not be written, as was said
                file.close()
        if not direct:
            unfinished.unlink(missing_ok=True)
