"""Batches of more windows than can be planned at once: a chunk of them after the other, in memory that doesn't grow."""

import numpy as np

from jaxft.data.loader import Batch, Loader, permutation
from jaxft.data.packing import Shape, offsets_of
from jaxft.data.windows import Windows

CHUNK = 1 << 19  # windows; their plan takes about 260 bytes each


class ChunkedLoader:
    """Random access to the batches of any epoch, as `Loader`'s, with the plan of one chunk in memory.

    An epoch takes the chunks in an order drawn anew, and each as a `Loader` takes all: windows are shuffled within
    chunks, every window comes exactly once, and a chunk's last step may have empty rows. A batch is still a pure
    function of seed and step. Without `segments`, S is each chunk's own.
    """

    def __init__(self, windows: Windows, *, chunk: int, seed: int = 0, shuffle: bool = True, **options):
        """Makes up the rows of all chunks, which are of nearly equal size, at most `chunk` windows.

        options: of `Loader`, but that rows are never made of blocks, so that all chunks share their shapes.
        """
        self._windows, self._seed, self._shuffle = windows, seed, shuffle
        self._options = options | {"shuffle": shuffle, "blocks": False}
        count = max(1, -(-len(windows) // chunk))
        self._first = np.linspace(0, len(windows), count + 1).astype(np.int64)
        self._loaded: tuple[int, Loader] | None = None
        steps, shapes, tokens, slots = [], set(), 0.0, 0
        for index in range(count):
            one = self._loader(index)
            steps.append(one.steps_per_epoch)
            shapes.update(one.shapes)
            slots += one.slots
            tokens += one.slots * (1 - one.padding_fraction)
        self._steps = np.array(steps, np.int64)
        self.shapes: list[Shape] = sorted(shapes)
        self.steps_per_epoch = int(self._steps.sum())
        self.padding_fraction = 1 - tokens / slots if slots else 0.0

    def _loader(self, index: int) -> Loader:
        loaded = self._loaded  # one read: another thread may be in another chunk
        if loaded is None or loaded[0] != index:
            first, end = map(int, self._first[index : index + 2])
            [seed] = np.random.SeedSequence([self._seed, index]).generate_state(1, np.uint64)
            self._loaded = loaded = None  # before the next is made
            windows = Windows(self._windows.rows.slice(first, end - first))
            self._loaded = loaded = index, Loader(windows, seed=int(seed), **self._options)
        return loaded[1]

    def order(self) -> str:
        """A hash of the order of the first chunk, as of the others: they are cut and shuffled alike."""
        return self._loader(0).order()

    def batch(self, step: int) -> Batch:
        """The batch of any step from 0 on. Raises IndexError where there is none."""
        if step < 0 or self.steps_per_epoch == 0:
            raise IndexError(f"no batch {step}: {self.steps_per_epoch} steps an epoch")
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.arange(len(self._steps))
        if self._shuffle:
            order = permutation(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])), len(order))
        begin = offsets_of(self._steps[order])
        place = int(np.searchsorted(begin, index, side="right")) - 1
        chunk = int(order[place])
        batch = self._loader(chunk).batch(epoch * int(self._steps[chunk]) + index - int(begin[place]))
        return batch._replace(
            windows=np.where(batch.windows < 0, -1, batch.windows + self._first[chunk]).astype(np.int32)
        )
