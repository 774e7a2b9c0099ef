"""Runs the body of a verb: parses flags, and turns errors and signals into exit codes."""

import argparse
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxft.cli import startup
from jaxft.cli.flags import FlagParser
from jaxft.cli.streams import tell_terminal
from jaxft.cli.verbs import VERBS
from jaxft.errors import EXIT_INTERRUPTED, UserError, printable
from jaxft.io.stores import errors_name_addresses, fetch_source, refuse_address, with_addresses
from jaxft.training.log.waits import announced

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


# Flags that may differ between processes. The places of files may differ, but not the content of --input.
FREE_FLAGS = (
    "process_id",
    "coordinator",
    "start_timeout",
    "peer_timeout",
    "run",
    "checkpoint",
    "data",
    "input",
    "output",
)


def _shared_facts(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags that must be the same in all processes, and the digest of the input."""
    facts = {f"--{name}": value for name, value in vars(flags).items() if name not in FREE_FLAGS}
    if (source := getattr(flags, "input", None)) and Path(source).is_file():
        with contextlib.suppress(OSError), open(source, "rb") as file:  # an error is reported when it is read
            facts["SHA-256 of --input"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def log_to_stderr(line: str) -> None:
    """Prints a line on stderr, for verbs whose stdout may be the output. Only process 0 prints."""
    from jaxft.parallel import processes  # slow, and verbs import this module before they answer --help

    if processes.is_main_process():
        print(printable(with_addresses(line)), file=sys.stderr, flush=True)


def check_overrides(arguments: Sequence[str]) -> None:
    """Raises `UserError` if an argument is neither a flag of the verb nor a setting; names the setting it may mean."""
    from jaxft.training.settings import find_setting  # reads all tasks' settings

    for previous, argument in zip(("", *arguments), arguments, strict=False):
        if argument.startswith("--config."):
            continue
        if previous.startswith("--config.") and "=" not in previous and not argument.startswith("-"):
            raise UserError(f"{previous} {argument}: write it with =, as {previous}={argument}")
        if argument in VERBS:
            raise UserError(
                f"{argument}: a verb where a flag was expected; a verb comes first: `jaxft {argument} ...`, or "
                f"`python -m jaxft {argument} ...`"
            )
        flag, _, value = argument.partition("=")
        near = find_setting(flag.lstrip("-").replace("-", "_")) if argument.startswith("--") else []
        shown = value if len(near) == 1 and value else "..."
        names = ["--workdir=..."] if flag == "--output_dir" else [f"--config.{key}={shown}" for key in near]
        hint = (
            f"did you mean {' or '.join(names)}?" if names else "settings are given as --config.optim.lr=3e-5"
        )
        raise UserError(f"{argument}: unknown flag; {hint}")


def _reach_stores(flags: argparse.Namespace) -> None:
    """Copies an --input in an object store. Raises `UserError` for an --output in one, which must be a local path."""
    refuse_address(
        getattr(flags, "output", None), "--output", "write to a local path, and copy the result there"
    )
    if getattr(flags, "input", None):
        flags.input = fetch_source(flags.input)


@contextlib.contextmanager
def command(parser: FlagParser, argv: list[str] | None) -> Iterator[argparse.Namespace]:
    """Parses the flags and runs the block as the body of a verb that uses a trained model.

    User errors, a closed stdout and Ctrl-C become exit codes.

    Args:
      parser: the parser of the verb's flags, with those of `add_process_flags`.
      argv: the arguments; None for the arguments of the process.

    Yields:
      The parsed flags.
    """
    flags, unknown = parser.parse_known_args(argv)
    with announced("importing jax", tell_terminal):
        # Slow imports come after --help has been answered.
        from jaxft.cli.several_processes import as_process
        from jaxft.parallel import processes
        from jaxft.training.run_folder.identity import installed_versions

    # SIGTERM raises an exception, so that unfinished files are put aside.
    with contextlib.suppress(ValueError):  # not in the main thread: the caller handles signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with as_process(flags):
            if unknown:
                near = "".join(f"did you mean {flag}? " for flag in parser.near_flags(unknown[0]))
                raise UserError(
                    f"{unknown[0]}: unknown flag; {near}{parser.prog} --help lists those there are"
                )
            if processes.count() > 1:
                if "-" in (getattr(flags, "data", None), getattr(flags, "input", None)):
                    raise UserError("stdin is one process's; give all processes a file that they share")
                processes.assert_same(_shared_facts(flags) | installed_versions())
            startup.use_compilation_cache()
            _reach_stores(flags)
            with errors_name_addresses():
                yield flags
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that Python prints nothing more on exit
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
