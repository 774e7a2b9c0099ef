"""Builds a loader's batches ahead of time, in a thread."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import TypeAlias

from jaxft.data.batching.batch import Batch, Batches

Built: TypeAlias = tuple[int, Batch] | BaseException  # a step with its batch, or what ended the thread


class Prefetch:
    """Iterates over (step, batch); a thread builds the batches ahead of time. See `prefetch`.

    Attributes:
      stall: seconds that the consumer has waited for batches so far.
    """

    def __init__(self, loader: Batches, start: int, stop: int, depth: int):
        self.stall = 0.0
        self._ready: queue.Queue[Built] = queue.Queue(depth)
        self._closed = threading.Event()
        # The thread holds no reference to this object, so that dropping the iterator ends the thread.
        self._thread = threading.Thread(
            target=_produce,
            args=(loader, start, stop, self._ready, self._closed),
            daemon=True,
            name="prefetch",
        )
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        if self._closed.is_set():
            raise StopIteration
        began = time.perf_counter()
        item = self._ready.get()
        self.stall += time.perf_counter() - began
        if isinstance(item, tuple):
            return item
        self.close()
        raise item

    def close(self) -> None:
        """Ends the thread. It may be called twice. It is also called when the iterator ends or is deleted."""
        self._closed.set()
        while self._thread.is_alive():
            while not self._ready.empty():  # wakes a thread that waits for room, so that it sees `closed`
                self._ready.get_nowait()
            self._thread.join(0.01)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _produce(
    loader: Batches, start: int, stop: int, ready: "queue.Queue[Built]", closed: threading.Event
) -> None:
    try:
        for step in range(start, stop):
            item = (step, loader.batch(step))
            if closed.is_set():
                return
            ready.put(item)
        ready.put(StopIteration())
    except BaseException as error:  # the consumer must see any error
        ready.put(error)


def prefetch(loader: Batches, start: int, stop: int, depth: int = 2) -> Prefetch:
    """Yields (step, batch) for steps `start` up to `stop` (exclusive), built in a thread up to `depth` batches ahead.

    An error in building a batch is raised when the consumer asks for that batch. A consumer that stops early must call
    `close` or use a `with` statement.
    """
    return Prefetch(loader, start, stop, depth)
