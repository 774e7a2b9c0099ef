"""Measures the process of a run: training time, compilations, profiler traces, peak memory."""

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxft.errors import UserError


class Clock:
    """Counts the seconds since its creation until `stop`. Time inside `with clock:` does not count."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stopped: float | None = None
        self._paused, self._pause_began = 0.0, 0.0

    def __enter__(self) -> None:
        self._pause_began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._paused += time.perf_counter() - self._pause_began

    def stop(self) -> None:
        """Counts no more."""
        self._stopped = time.perf_counter()

    def seconds(self) -> float:
        """Returns the seconds so far."""
        return (self._stopped or time.perf_counter()) - self._started - self._paused


class CompileCounter:
    """Counts the programs that XLA makes for this thread from the counter's creation until `close`.

    A program in the compilation cache is only loaded. That stalls a run too, although for less time.

    Attributes:
      count: the number of programs so far, compiled or loaded.
      cache_hits: the number of them that were loaded from the compilation cache.
      seconds: the time they took.
    """

    def __init__(self) -> None:
        self.count, self.cache_hits, self.seconds = 0, 0, 0.0
        self._thread = threading.get_ident()  # another one may train or predict at the same time
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        jax.monitoring.register_event_listener(self._count_cache_hit)

    def close(self) -> None:
        """Counts no more."""
        jax.monitoring.unregister_event_duration_listener(self._listen)
        jax.monitoring.unregister_event_listener(self._count_cache_hit)

    def counts(self) -> dict[str, int]:
        """Returns how many programs were compiled so far, and how many were loaded, as in `summary.json`."""
        return {"compiles": self.count - self.cache_hits, "compile_cache_hits": self.cache_hits}

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Does not count programs in the block: in a save orbax once slices arrays that several devices hold."""
        before = self.count, self.cache_hits, self.seconds
        yield
        self.count, self.cache_hits, self.seconds = before

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and threading.get_ident() == self._thread:
            self.count += 1
            self.seconds += duration_secs

    def _count_cache_hit(self, event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits" and threading.get_ident() == self._thread:
            self.cache_hits += 1


class Profile:
    """A trace of a range of steps, written into `folder` for TensorBoard's profile plugin, XProf and Perfetto.

    Args:
      folder: the folder of the trace.
      steps: the steps to trace; none for no trace.
      first: the step from which the run goes.
      total: the step to which the run goes.

    Raises:
      UserError: the run does not make all of the steps, or none after them.
    """

    def __init__(self, folder: Path, steps: range, *, first: int, total: int):
        if steps and not first <= steps.start < steps.stop < total:
            raise UserError(
                f"--profile_steps {steps.start}:{steps.stop}: the run goes from step {first} to {total}; "
                "name steps between them"
            )
        self._folder, self._steps, self._running = folder, steps, False

    def is_due(self, step: int) -> bool:
        """Returns whether the trace begins or ends before `step`."""
        return bool(self._steps) and step == (self._steps.stop if self._running else self._steps.start)

    def toggle(self) -> str:
        """Begins or ends the trace, and returns the line to log about it."""
        self._running = not self._running
        if self._running:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            return f"profile: steps {self._steps.start} to {self._steps.stop - 1} into {self._folder}"
        jax.profiler.stop_trace()
        return f"profile: open {self._folder} in XProf, or its perfetto_trace.json.gz at ui.perfetto.dev"


def peak_rss_bytes() -> int:
    """Returns the process's largest resident memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
