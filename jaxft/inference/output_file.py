"""Opens the output of a command: stdout, or a file that gets its name once it is complete."""

import collections
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jaxft.errors import UserError
from jaxft.io.files import describe_unwritable
from jaxft.parallel import processes


@contextlib.contextmanager
def open_output(name: str, log: Callable[[str], None]) -> Iterator[Callable[[Iterable[bytes]], None]]:
    """Yields a function that writes pieces to stdout or a file, and flushes them.

    A file gets its name when the block ends without an error, so a file with that name is complete. If the block ends
    otherwise, what was written until then stays in a file next to it, NAME.unfinished, and a line of the log says so. A
    target that cannot be renamed (a device, a named pipe) is written directly. With several processes only process 0
    writes.

    Args:
      name: a path, or "-" for stdout.
      log: prints a line.

    Raises:
      UserError: the output cannot be written.
    """
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--output {name}: is a folder; give a file's name, or - for stdout")
    if not processes.is_main_process():
        yield _discard
        return
    writes_directly = name == "-" or (path.exists() and not path.is_file())
    unfinished = path.with_name(f"{path.name}.unfinished")
    # Two commands with the same output must not write into one file, so the number of the process is in the name.
    partial = path if writes_directly else path.with_name(f"{path.name}.unfinished-{os.getpid()}")

    @contextlib.contextmanager
    def name_errors() -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(describe_unwritable(f"--output {name}", error)) from None

    def write(pieces: Iterable[bytes]) -> None:
        with name_errors():
            file.writelines(pieces)
            file.flush()

    with name_errors():
        file = sys.stdout.buffer if name == "-" else open(partial, "wb")
    try:
        yield write
        if name != "-":
            with name_errors():
                file.close()
                if not writes_directly:
                    partial.replace(path)
    finally:
        if name != "-":
            with contextlib.suppress(OSError):  # the failed write was already reported
                file.close()
        if not writes_directly and partial.exists():
            if partial.stat().st_size:
                partial.replace(unfinished)
                log(f"--output {name}: unfinished; what is done is in {unfinished}")
            else:
                partial.unlink()


def _discard(pieces: Iterable[bytes]) -> None:
    """Makes pieces and writes none."""
    collections.deque(pieces, maxlen=0)
