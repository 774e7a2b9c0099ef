"""SIGTERM ends a run at once before its first step, also in native code; after that the loop decides."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxft.errors import EXIT_PREEMPTED
from jaxft.parallel.preemption import EARLY, StopRequest

# A sort of many numbers stands for a compilation: it holds the main thread in native code for seconds.
SCRIPT = """
import os, sys
import numpy as np
from jaxft.parallel import heartbeat
from jaxft.parallel.preemption import StopRequest

class Beat:
    def ask_whether_to_stop(self, received):
        return lambda: bool(received)

    def leave(self, code, reason):
        print("told the others:", reason, flush=True)
        os._exit(code)

if sys.argv[1].startswith("several"):
    heartbeat._heartbeat = Beat()

millions = 15 if sys.argv[1].endswith("loop") else 100  # the loop waits for the end of the sort
numbers = np.random.default_rng(0).random(millions * 10**6)
with StopRequest() as stop_request:
    if sys.argv[1].endswith("loop"):
        assert not stop_request.is_stopping()
    print("ready", flush=True)
    numbers.sort()
    print("stopping" if stop_request.is_stopping() else "not stopping", flush=True)
"""


def stop(moment: str) -> tuple[int, float, str, str]:
    """Sends SIGTERM to the script; returns exit code, seconds, stdout and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        return process.returncode, time.monotonic() - began, out, err


@pytest.mark.parametrize("moment", ["early", "several, early"])
def test_native_code_is_left_at_once_before_the_first_step(moment):
    code, seconds, out, err = stop(moment)
    assert code == EXIT_PREEMPTED and err.strip() == EARLY and seconds < 4
    assert out == (f"told the others: {EARLY}\n" if "several" in moment else "")


@pytest.mark.parametrize("moment", ["loop", pytest.param("several, loop", marks=pytest.mark.sweep)])
def test_after_the_first_question_a_signal_is_only_noted(moment):
    code, _, out, _ = stop(moment)
    assert code == 0 and out.strip() == "stopping"


def test_a_run_that_failed_before_its_first_step_leaves_no_watch_behind():
    """Its thread would end the process at a SIGTERM in the loop of the next run."""
    previous = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with StopRequest():
                raise ValueError
        except ValueError:
            pass
        with StopRequest() as stop_request:
            assert not stop_request.is_stopping()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            assert stop_request.is_stopping()
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, previous)
