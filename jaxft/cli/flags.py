"""Defines the flags that several verbs share. Imports nothing slow, so that `--help` is quick."""

import argparse
from collections.abc import Sequence


def add_input_flags(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Adds the flags that say how an --input is read, and what becomes of records with an error.

    Args:
      parser: the parser of a verb.
      formats: the names of formats.
    """
    parser.add_argument(
        "--format",
        default="auto",
        choices=formats,
        help="of the input; default: what its name and content show",
    )
    parser.add_argument(
        "--encoding",
        default="auto",
        help="of the input, such as cp1252; default UTF-8, or UTF-16 if it shows",
    )
    parser.add_argument(
        "--delimiter",
        default="auto",
        help="between values of a table, such as ';' or tab; default: what it shows",
    )
    parser.add_argument(
        "--on_error",
        default="stop",
        choices=("stop", "record"),
        help="a record with an error ends the command (default), or is written with the error; "
        "the answers before it are written in both cases",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that make a command one of several processes."""
    group = parser.add_argument_group(
        "several processes",
        "the same command on each host; TPU slices and Slurm are recognised without flags",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there"
    )
    group.add_argument("--num_processes", metavar="N", type=int, help="how many there are")
    group.add_argument("--process_id", metavar="I", type=int, help="which this is, from 0")
    seconds = {"metavar": "SECONDS", "type": int}
    group.add_argument(
        "--start_timeout", **seconds, default=300, help="to wait for all to start; default 300"
    )
    group.add_argument(
        "--peer_timeout",
        **seconds,
        default=60,
        help="without a sign of life, after which a process counts as lost and the others stop; default 60",
    )
