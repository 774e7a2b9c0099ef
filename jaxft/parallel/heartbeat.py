"""A thread beside the run: tells the other processes that this one lives, stops it if one is lost, carries SIGTERM."""

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

_watch: "Heartbeat | None" = None
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)  # of a signal, in C


def start(timeout: float) -> "Heartbeat":
    """Starts the thread of this process; `timeout` in seconds, as the flag --peer_timeout."""
    global _watch
    _watch = Heartbeat(timeout)
    return _watch


def on_sigterm() -> Callable[[], bool]:
    """Catches SIGTERM from now on. The result, called once a step, says whether any process has had one.

    It becomes true at the same call in all processes. To be called in the main thread.
    """
    came: list[bool] = []  # in a handler no lock may be waited for
    with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us handles signals
        signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    return (lambda: bool(came)) if _watch is None else _watch.stop_asked_by(came)


def exit_now(code: int) -> NoReturn:
    """Ends this process at once: at the exit of Python jax would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Heartbeat:
    """See the module. `timeout`: seconds without a sign of life after which a process counts as lost.

    SIGTERM: a process that has had one says so; then each says how often it has asked whether to stop, and holds
    its next question back until all have said; all stop at the question after the highest number. This is jax's
    `reached_preemption_sync_point`, whose count of steps orbax, which asks it too, sets wrong.
    """

    def __init__(self, timeout: float):
        self._timeout, self._interval = timeout, min(timeout / 5, 1.0)
        self._hosts = processes.gather(socket.gethostname())
        self._ended, self._leaving, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._asking, self._asked, self._stop_at = threading.Lock(), 0, None
        self._sigterm: list[bool] = []
        self._stopping = threading.Lock()
        if not processes.is_main_process():
            self._on_abort = _HANDLER(self._aborted)  # kept, for C has its address only
            libc = ctypes.CDLL(None)
            libc.signal.argtypes = [ctypes.c_int, _HANDLER]
            libc.signal(signal.SIGABRT, self._on_abort)
        self._threads = [
            threading.Thread(target=target, daemon=True, name="watch") for target in (self._run, self._hold)
        ]
        for thread in self._threads:
            thread.start()

    def stop_asked_by(self, came: list[bool]) -> Callable[[], bool]:
        """The question of `on_sigterm`; `came` tells of this process's signal."""
        self._sigterm = came

        def asked() -> bool:
            if came and self._stop_at is None:
                self._wake.set()
            with self._asking:
                self._asked += 1
                return self._stop_at is not None and self._asked >= self._stop_at

        return asked

    def close(self) -> None:
        """Ends the threads; to be called in all processes."""
        self._ended.set()
        self._wake.set()
        if processes.is_main_process():
            processes.put_key("jaxft/over", True)
        for thread in self._threads:
            thread.join()

    def await_verdict(self) -> None:
        """Gives the thread the time to find out which other process is lost; returns where none is."""
        time.sleep(self._timeout + 3 * self._interval)

    def leave(self, code: int, reason: str) -> NoReturn:
        """Ends this process, and tells the others `reason`, which ends them."""
        self._leaving.set()
        with contextlib.suppress(Exception):  # process 0 may be gone
            processes.put_key(f"jaxft/failed/{processes.index()}", [code, reason])
        if processes.is_main_process():
            time.sleep(3 * self._interval)  # the others read it from here
        exit_now(code)

    def _run(self) -> None:
        beats: dict[int, tuple[Any, float]] = {}  # of each process, its last beat and when it was new
        for beat in itertools.count():
            try:
                self._look(beat, beats)
            except Exception as error:  # of the store: process 0 is gone, or the run is over
                reason = str(error).strip().partition("\n")[0][:200]
                self._lost(f"process 0 ({self._hosts[0]}) cannot be reached ({reason})")
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._ended.is_set():
                return

    def _hold(self) -> None:
        """Holds a line to process 0: it breaks at once where that ends. (jax then aborts, see `_aborted`.)"""
        while True:
            try:
                global_state.client.blocking_key_value_get("jaxft/over", processes.PATIENCE_MS)
                return
            except Exception as error:
                if not str(error).startswith("DEADLINE_EXCEEDED"):  # a run may be longer than one wait
                    self._lost(f"process 0 ({self._hosts[0]}) has ended")
                    return

    def _aborted(self, _signal: int) -> None:
        """Ends this process as `_hold` does where jax aborts it for the end of process 0; else the abort goes on.

        jax's client aborts, by a thread in C++, as soon as it cannot reach process 0, and calls no function of Python's
        instead; so does a failed check of XLA's, of which process 0 knows nothing.
        """
        host, _, port = global_state.coordinator_address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=self._interval).close()
        except OSError:
            self._lost(f"process 0 ({self._hosts[0]}) has ended")

    def _look(self, beat: int, beats: dict[int, tuple[Any, float]]) -> None:
        processes.put_key(f"jaxft/beat/{processes.index()}", beat)
        for process, (code, reason) in processes.read_keys("jaxft/failed").items():
            if process != processes.index():
                self._stop(code, f"process {process} ({self._hosts[process]}) failed: {reason}")
        now, found = time.monotonic(), processes.read_keys("jaxft/beat")
        for process in range(processes.count()):
            if process not in beats or beats[process][0] != found.get(process):
                beats[process] = found.get(process), now
            elif now - beats[process][1] > self._timeout:
                silence = f"gave no sign of life for {self._timeout:.0f} s"
                self._lost(f"process {process} ({self._hosts[process]}) {silence}")
        if self._stop_at is None and self._sigterm:
            processes.put_key(f"jaxft/sigterm/{processes.index()}", True)
        if self._stop_at is None and processes.read_keys("jaxft/sigterm"):
            self._agree_where_to_stop()

    def _agree_where_to_stop(self) -> None:
        with self._asking:
            processes.put_key(f"jaxft/asked/{processes.index()}", self._asked)
            try:
                global_state.client.wait_at_barrier("jaxft/asked", int(1000 * self._timeout))
            except jax.errors.JaxRuntimeError:
                silent = set(range(processes.count())) - processes.read_keys("jaxft/asked").keys()
                self._lost(f"process {', '.join(map(str, sorted(silent)))} did not answer to SIGTERM")
            self._stop_at = max(processes.read_keys("jaxft/asked").values()) + 1

    def _lost(self, who: str) -> None:
        """Ends this process for another one that is lost."""
        again = "the same command in every process goes on from the last checkpoint"
        self._stop(EXIT_PREEMPTED, f"{who} and counts as lost; {again}")

    def _stop(self, code: int, sentence: str) -> None:
        with self._stopping:  # several threads may hear of it
            if self._ended.is_set() or self._leaving.is_set():
                return
            print(f"error: process {processes.index()} stops: {sentence}", file=sys.stderr, flush=True)
            if processes.is_main_process():
                time.sleep(2 * self._interval)  # the others see it for themselves, in the store that is here
            exit_now(code)
