"""Runs a heartbeat in two threads: signals that this process lives, ends it if another is lost, passes on SIGTERM."""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from jaxft.errors import EXIT_PREEMPTED
from jaxft.parallel import processes
from jaxft.parallel.jax_internals import global_state

_heartbeat: "Heartbeat | None" = None  # this process's heartbeat, once `start` has been called
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)  # the type of a signal handler in C


def start(timeout: float) -> "Heartbeat":
    """Starts and returns this process's heartbeat; `timeout` is in seconds, from the flag --peer_timeout."""
    global _heartbeat
    _heartbeat = Heartbeat(timeout)
    return _heartbeat


def current() -> "Heartbeat | None":
    """Returns this process's heartbeat; None if there is a single process."""
    return _heartbeat


def exit_now(code: int) -> NoReturn:
    """Ends this process at once. At Python's regular exit, jax would wait for the other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Heartbeat:
    """The threads of one process that watch the other processes.

    One thread writes a beat to jax's store at each interval, and reads the beats of the other processes. A process
    counts as lost if it has written no new beat for `timeout` seconds. The other thread waits on a connection to
    process 0, which breaks at once if process 0 ends.

    After a SIGTERM, all processes must stop at the same step. A process that received the signal reports it in the
    store. Then each process writes how often it has asked whether to stop, and delays its next question until all have
    written their numbers. All processes stop at the question after the highest number. jax's own
    `reached_preemption_sync_point` does the same, but orbax also calls it and so makes its count of steps wrong.

    Args:
        timeout: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, timeout: float):
        self._timeout, self._interval = timeout, min(timeout / 5, 1.0)
        self._hosts = processes.gather(socket.gethostname())
        self._ended, self._leaving, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._question_lock, self._questions, self._stop_at = threading.Lock(), 0, None
        self._received_sigterm: list[bool] = []
        self._stop_lock = threading.Lock()
        if not processes.is_main_process():
            self._on_abort = _HANDLER(self._handle_abort)  # kept, because C holds only its address
            libc = ctypes.CDLL(None)
            libc.signal.argtypes = [ctypes.c_int, _HANDLER]
            libc.signal(signal.SIGABRT, self._on_abort)
        self._threads = [
            threading.Thread(target=target, daemon=True, name="heartbeat")
            for target in (self._beat_until_ended, self._wait_on_main)
        ]
        for thread in self._threads:
            thread.start()

    def ask_whether_to_stop(self, received: list[bool]) -> Callable[[], bool]:
        """Returns a function that says, once a step, whether any process has received SIGTERM.

        The function returns True from the same call on in all processes.

        Args:
            received: not empty if this process has received SIGTERM.
        """
        self._received_sigterm = received

        def must_stop() -> bool:
            if received and self._stop_at is None:
                self._wake.set()
            with self._question_lock:
                self._questions += 1
                return self._stop_at is not None and self._questions >= self._stop_at

        return must_stop

    def close(self) -> None:
        """Ends the threads. Call it in all processes."""
        self._ended.set()
        self._wake.set()
        if processes.is_main_process():
            processes.put_key("jaxft/over", True)
        for thread in self._threads:
            thread.join()

    def await_verdict(self) -> None:
        """Waits until the threads would have found a lost process and ended this one; returns if none is lost."""
        time.sleep(self._timeout + 3 * self._interval)

    def leave(self, code: int, reason: str) -> NoReturn:
        """Ends this process with exit code `code`, and sends `reason` to the other processes, which ends them too."""
        self._leaving.set()
        with contextlib.suppress(Exception):  # process 0 may be gone
            processes.put_key(f"jaxft/failed/{processes.index()}", [code, reason])
        if processes.is_main_process():
            time.sleep(3 * self._interval)  # the other processes read the key from this process
        exit_now(code)

    def _beat_until_ended(self) -> None:
        last_beats: dict[
            int, tuple[Any, float]
        ] = {}  # by process: its last beat, and the time when it was new
        for beat in itertools.count():
            try:
                self._exchange_signs(beat, last_beats)
            except Exception as error:  # raised by the store: process 0 is gone, or the run is over
                reason = str(error).strip().partition("\n")[0][:200]
                self._stop_for_lost(f"process 0 ({self._hosts[0]}) cannot be reached ({reason})")
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._ended.is_set():
                return

    def _wait_on_main(self) -> None:
        """Waits on a connection to process 0, which breaks if process 0 ends; jax then aborts, see `_handle_abort`."""
        while True:
            try:
                global_state.client.blocking_key_value_get("jaxft/over", processes.PATIENCE_MS)
                return
            except Exception as error:
                if not str(error).startswith("DEADLINE_EXCEEDED"):  # a run may be longer than one wait
                    self._stop_for_lost(f"process 0 ({self._hosts[0]}) has ended")
                    return

    def _handle_abort(self, _signal: int) -> None:
        """Ends this process like `_wait_on_main` if jax aborts because process 0 has ended; else lets it abort.

        jax's client aborts as soon as it cannot reach process 0. It does so in a C++ thread and offers no callback in
        Python. A failed check in XLA aborts too, and has nothing to do with process 0.
        """
        host, _, port = global_state.coordinator_address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=self._interval).close()
        except OSError:
            self._stop_for_lost(f"process 0 ({self._hosts[0]}) has ended")

    def _exchange_signs(self, beat: int, last_beats: dict[int, tuple[Any, float]]) -> None:
        """Writes this process's `beat`, ends the process if another has failed or is lost, and passes on SIGTERM."""
        processes.put_key(f"jaxft/beat/{processes.index()}", beat)
        for process, (code, reason) in processes.read_keys("jaxft/failed").items():
            if process != processes.index():
                self._stop(code, f"process {process} ({self._hosts[process]}) failed: {reason}")
        now, beats = time.monotonic(), processes.read_keys("jaxft/beat")
        for process in range(processes.count()):
            if process not in last_beats or last_beats[process][0] != beats.get(process):
                last_beats[process] = beats.get(process), now
            elif now - last_beats[process][1] > self._timeout:
                silence = f"gave no sign of life for {self._timeout:.0f} s"
                self._stop_for_lost(f"process {process} ({self._hosts[process]}) {silence}")
        if self._stop_at is None and self._received_sigterm:
            processes.put_key(f"jaxft/sigterm/{processes.index()}", True)
        if self._stop_at is None and processes.read_keys("jaxft/sigterm"):
            self._agree_where_to_stop()

    def _agree_where_to_stop(self) -> None:
        with self._question_lock:
            processes.put_key(f"jaxft/asked/{processes.index()}", self._questions)
            try:
                global_state.client.wait_at_barrier("jaxft/asked", int(1000 * self._timeout))
            except jax.errors.JaxRuntimeError:
                silent = sorted(set(range(processes.count())) - processes.read_keys("jaxft/asked").keys())
                self._stop_for_lost(f"process {', '.join(map(str, silent))} did not answer to SIGTERM")
            self._stop_at = max(processes.read_keys("jaxft/asked").values()) + 1

    def _stop_for_lost(self, event: str) -> None:
        """Ends this process because another is lost. `event` names it and says how the loss was noticed."""
        advice = "the same command in every process goes on from the last checkpoint"
        self._stop(EXIT_PREEMPTED, f"{event} and counts as lost; {advice}")

    def _stop(self, code: int, reason: str) -> None:
        """Ends this process with exit code `code`, unless it is already ending."""
        with self._stop_lock:  # both threads may call this
            if self._ended.is_set() or self._leaving.is_set():
                return
            print(f"error: process {processes.index()} stops: {reason}", file=sys.stderr, flush=True)
            if processes.is_main_process():
                time.sleep(2 * self._interval)  # the other processes read the store, which this process keeps
            exit_now(code)
