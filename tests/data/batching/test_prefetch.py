"""Tests of batches that are built ahead: the same, their errors where they belong, no thread left behind."""

import gc
import threading
import time

import numpy as np
import pytest

from jaxft.data.batching.prefetch import prefetch
from tests.data.batching.test_loader import equal, loader_of


def test_prefetch_gives_the_same_batches():
    loader = loader_of(np.resize(np.arange(3, 33), 100))
    with prefetch(loader, 5, 40) as ahead:
        for expected, (step, batch) in enumerate(ahead, 5):
            assert step == expected
            assert equal(batch, loader.batch(step))
    assert step == 39
    assert 0 <= ahead.stall < 5


class Slow:
    """A loader that fails at step 3, or waits."""

    def batch(self, step):
        time.sleep(0.05)
        if step == 3:
            raise RuntimeError("broken batch 3")
        return step


def test_prefetch_raises_the_error_at_its_step_and_counts_stall():
    ahead = prefetch(Slow(), 0, 10)
    assert [next(ahead)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="broken batch 3"):
        next(ahead)
    assert 0.1 < ahead.stall < 2
    with pytest.raises(StopIteration):
        next(ahead)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_ends_its_thread_when_left_early():
    loader = loader_of([5, 6, 7])
    with prefetch(loader, 0, 10**9) as ahead:
        next(ahead)
    assert threads() == []
    for _ in prefetch(loader, 0, 10**9):
        break
    gc.collect()
    assert threads() == []
    assert len(list(prefetch(loader, 0, 3))) == 3
    assert threads() == []
