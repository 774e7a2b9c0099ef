"""Says what a run is doing while it takes long."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

SILENCE = 1.0  # the seconds that work may take without a word
SECOND_LINE = 10.0  # the seconds after which its time is told; told again each time that it has doubled


@contextlib.contextmanager
def announced(work: str, log: Callable[[str], None], after: float = SILENCE) -> Iterator[None]:
    """Logs what the block does if it takes longer than `after` seconds, and sometimes how long it has taken.

    Args:
      work: the work, such as "encoding the data".
      log: prints a line; called in another thread.
      after: the seconds without a word.
    """
    ended = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        if ended.wait(after):
            return
        log(f"{work} ...")
        due = max(SECOND_LINE, 2 * after)
        while not ended.wait(max(0.0, began + due - time.monotonic())):
            log(f"{work}: {due:.0f} s so far")
            due *= 2

    thread = threading.Thread(target=tell, daemon=True, name="waits")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # so that no line comes late
