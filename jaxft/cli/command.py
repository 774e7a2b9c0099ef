"""Frames every verb: flags, errors, exit codes."""

import argparse
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxft.cli import startup
from jaxft.cli.several_processes import add_flags, as_process
from jaxft.errors import EXIT_INTERRUPTED, UserError
from jaxft.parallel import processes
from jaxft.training.identity import installed_versions

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


def _shared_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """What `flags` ask for, which no two processes may differ in: where files lie may differ, the input itself not."""
    own = ("process_id", "coordinator", "start_timeout", "peer_timeout")
    own += ("run", "checkpoint", "data", "input", "output")
    facts = {f"--{name.replace('_', '-')}": value for name, value in vars(flags).items() if name not in own}
    if (source := getattr(flags, "input", None)) and Path(source).is_file():
        with contextlib.suppress(OSError), open(source, "rb") as file:  # which is said where it is read
            facts["SHA-256 of --input"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


@contextlib.contextmanager
def command(parser: argparse.ArgumentParser, argv: list[str] | None) -> Iterator[argparse.Namespace]:
    """The body of a verb: parsed flags in; user's errors, a reader that left and Ctrl-C as exit codes out."""
    add_flags(parser)
    flags, rest = parser.parse_known_args(argv)
    # As an exception, so that files that are half-written are taken away.
    with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us handles signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with as_process(flags):
            if rest:
                raise UserError(f"{rest[0]}: unknown flag; --help lists those there are")
            if processes.count() > 1:
                if "-" in (getattr(flags, "data", None), getattr(flags, "input", None)):
                    raise UserError("stdin is one process's; give all processes a file that they share")
                processes.assert_same(_shared_flags(flags) | installed_versions())
            startup.use_compilation_cache()
            yield flags
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is said on exit
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
