"""Runs a verb as one of several processes."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from jaxft.errors import (
    EXIT_INTERRUPTED,
    EXIT_NON_FINITE,
    EXIT_PREEMPTED,
    exit_on_user_error,
)
from jaxft.parallel import heartbeat, processes
from jaxft.parallel.launch_detection import first_line, join_processes


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which a command becomes one of several processes."""
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


@contextlib.contextmanager
def as_process(flags: argparse.Namespace) -> Iterator[None]:
    """The body of a command: joins the other processes, turns errors into exit codes, and ends with the others.

    An error of one process is printed there, with its number, and ends the others, which say whose it was.
    """
    with exit_on_user_error():
        join_processes(flags)
    if processes.count() == 1:
        with exit_on_user_error():
            yield
        return
    _separate_stdout()
    beat = heartbeat.start(flags.peer_timeout)
    try:
        with exit_on_user_error(f"process {processes.index()}: "):
            yield
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code not in (0, EXIT_PREEMPTED, EXIT_NON_FINITE):  # these all processes end with
            beat.leave(code, str(error.__context__ or "") or f"exit code {code}")
        _end(beat)
        raise
    except KeyboardInterrupt:
        beat.leave(EXIT_INTERRUPTED, "interrupted")
    except BaseException as error:
        who = f"process {processes.index()}"
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            # What all compute together fails in those that are left when one is lost.
            print(f"{who}: {first_line(error)}; waiting to hear whether a process is lost", file=sys.stderr)
            beat.await_verdict()
        print(f"{who}: {traceback.format_exc()}", file=sys.stderr, flush=True)
        beat.leave(1, f"{type(error).__name__}: {first_line(error)}")
    else:
        _end(beat)


def _separate_stdout() -> None:
    """Has what native libraries print go to stderr (gloo speaks of its ranks): stdout may be a file of results."""
    out = sys.stdout
    out.flush()
    sys.stdout = open(  # to the end of the process
        os.dup(out.fileno()),
        "w",
        encoding=out.encoding,
        errors=out.errors,
        buffering=1 if out.line_buffering else -1,
    )
    os.dup2(2, out.fileno())


def _end(beat: heartbeat.Heartbeat) -> None:
    """Waits until all processes have come to their end, however long another one writes its files."""
    processes.gather(None)
    beat.close()
    jax.distributed.shutdown()
