"""Runs a verb as one of several processes."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from jaxft.cli.streams import LastingStream
from jaxft.errors import EXIT_INTERRUPTED, EXIT_NON_FINITE, EXIT_PREEMPTED, exit_on_user_error, first_line
from jaxft.parallel import heartbeat, processes
from jaxft.parallel.launch_detection import join_processes
from jaxft.training.run_folder.abandoned_work import quiet_orbax


@contextlib.contextmanager
def as_process(flags: argparse.Namespace) -> Iterator[None]:
    """Runs the block as one of several processes.

    Joins the other processes before the block, turns errors in the block into exit codes, and ends when the other
    processes end. A process prints its own error, with its number. The error ends the other processes, which name the
    process that failed.
    """
    quiet_orbax()
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
        if code not in (0, EXIT_PREEMPTED, EXIT_NON_FINITE):  # with these codes all processes end at once
            beat.leave(code, str(error.__context__ or "") or f"exit code {code}")
        _end(beat)
        raise
    except KeyboardInterrupt:
        beat.leave(EXIT_INTERRUPTED, "interrupted")
    except BaseException as error:
        who = f"process {processes.index()}"
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            # If a process is lost, the computations that it shares with the other processes fail there.
            print(f"{who}: {first_line(error)}; waiting to hear whether a process is lost", file=sys.stderr)
            beat.await_verdict()
        print(f"{who}: {traceback.format_exc()}", file=sys.stderr, flush=True)
        beat.leave(1, f"{type(error).__name__}: {first_line(error)}")
    else:
        _end(beat)


def _separate_stdout() -> None:
    """Redirects the output of native libraries from stdout, which may be a file of results, to stderr.

    gloo, for example, prints its ranks. Python's own stdout does not change.
    """
    out = sys.stdout
    out.flush()
    separate = open(  # stays open until the process ends
        os.dup(out.fileno()),
        "w",
        encoding=out.encoding,
        errors=out.errors,
        buffering=1 if out.line_buffering else -1,
    )
    sys.stdout = LastingStream(separate) if isinstance(out, LastingStream) else separate
    os.dup2(2, out.fileno())


def _end(beat: heartbeat.Heartbeat) -> None:
    """Waits until all processes have finished, however long they write files, and disconnects."""
    processes.gather(None)
    beat.close()
    jax.distributed.shutdown()
