"""Turns SIGTERM into an end of the process while there is nothing to save, and later into an answer to the loop."""

import contextlib
import signal
import socket
import sys
import threading
from typing import Any

from jaxft.errors import EXIT_PREEMPTED
from jaxft.parallel import heartbeat

EARLY = "SIGTERM before the first step: there is nothing to save; the same command starts again"


class StopRequest:
    """A SIGTERM that this process has received, or another process of the run.

    A command makes it in the main thread, for the rest of the process, and trains in its context. Before the first
    call of `is_stopping` there is nothing to save, so a SIGTERM ends the process with EXIT_PREEMPTED. A thread does
    that, because Python handles a signal only when native code returns, and a compilation takes minutes. An exception
    would not do: it is lost where it is raised in a destructor, and jax crashes at exit where it is raised in the
    middle of its work. From the first call on, a SIGTERM is only noted, for the next call.
    """

    def __init__(self) -> None:
        self._received: list[bool] = []  # a list, because a handler must not wait for a lock
        self._was_asked = False
        self._beat = heartbeat.current()
        self._asks_others = self._beat and self._beat.ask_whether_to_stop(self._received)
        self._watch = contextlib.ExitStack()
        signal.signal(signal.SIGTERM, self._handle)
        self._watch_signals()

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, *_: Any) -> None:
        self._note_only()

    def _note_only(self) -> None:
        """Only notes a SIGTERM from now on."""
        self._was_asked = True
        self._watch.close()

    def is_stopping(self) -> bool:
        """Returns whether any process has received SIGTERM, and from the first call on only notes it.

        All processes call it equally often. It returns True from the same call on in all of them.
        """
        if not self._was_asked:
            self._note_only()
        return self._asks_others() if self._asks_others else bool(self._received)

    def _handle(self, *_: Any) -> None:
        if self._was_asked:
            self._received.append(True)

    def _watch_signals(self) -> None:
        """Starts the thread. Python writes the number of each signal into its socket, even during native code."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._watch.callback(writer.close)  # which ends the thread
        self._watch.callback(signal.set_wakeup_fd, previous)
        threading.Thread(target=self._end_at_once, args=[reader], daemon=True, name="sigterm").start()

    def _end_at_once(self, reader: socket.socket) -> None:
        """Waits for SIGTERM in a thread, and ends the process."""
        with reader:
            while numbers := reader.recv(64):
                if signal.SIGTERM not in numbers:
                    continue
                if self._was_asked:  # the loop has begun meanwhile
                    self._received.append(True)
                    return
                print(EARLY, file=sys.stderr, flush=True)
                if self._beat:
                    self._beat.leave(EXIT_PREEMPTED, EARLY)
                heartbeat.exit_now(EXIT_PREEMPTED)
