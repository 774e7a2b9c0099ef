"""Batches of more windows than can be planned at once: a chunk of them after the other, in memory that doesn't grow."""

import numpy as np

from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.loader import Loader, random_permutation
from jaxft.data.batching.packing import choose_block_length
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths

CHUNK = 1 << 19  # windows; their plan takes about 260 bytes each


class ChunkedLoader:
    """Random access to the batches of any epoch, as `Loader`'s, with the plan of one chunk in memory.

    An epoch takes the chunks in an order drawn anew, and each as a `Loader` takes all: windows are shuffled within
    chunks, every window comes exactly once, and a chunk's last step may have empty rows. A batch is still a pure
    function of seed and step. Without `segments`, S is each chunk's own. Shapes are those of all chunks.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        chunk: int,
        seed: int = 0,
        shuffle: bool = True,
        pack: bool = True,
        rows: int,
        max_length: int,
        segments: int | None = None,
        block: int | None = None,
        **options,
    ):
        """Makes up the rows of all chunks, which are of nearly equal size, at most `chunk` windows.

        block, options: as of `Loader`.
        """
        self._windows, self._seed, self._shuffle = windows, seed, shuffle
        self.window_count = len(windows)
        if block is None:
            block = choose_block_length(windows.lengths, rows, max_length, segments) if pack else 0
        self._options = options | {
            "shuffle": shuffle,
            "pack": pack,
            "rows": rows,
            "max_length": max_length,
            "segments": segments,
            "block": block,
        }
        count = max(1, -(-len(windows) // chunk))
        self._first = np.linspace(0, len(windows), count + 1).astype(np.int64)
        self._loaded: tuple[int, Loader] | None = None
        self._shapes: dict[int, Shape] = {}  # by length
        # What `count_outputs` was given: `output_count` and `parts`.
        self._counted: tuple[np.ndarray, int] | None = None
        steps, tokens, slots, shapes = [], 0.0, 0, []
        for index in range(count):
            one = self._loader(index)
            steps.append(one.steps_per_epoch)
            slots += one.slots
            tokens += one.slots * (1 - one.padding_fraction)
            shapes += one.shapes
        for shape in shapes:
            # What holds for each n-th row holds for more of them.
            every = min(
                (
                    one.whole_row_period
                    for one in shapes
                    if one.length == shape.length and one.whole_row_period
                ),
                default=0,
            )
            self._shapes[shape.length] = shape._replace(whole_row_period=every)
        self._loaded = None
        self._steps = np.array(steps, np.int64)
        self.steps_per_epoch = int(self._steps.sum())
        self.padding_fraction = 1 - tokens / slots if slots else 0.0

    @property
    def shapes(self) -> list[Shape]:
        """Of batches, by length."""
        return [self._shapes[length] for length in sorted(self._shapes)]

    def set_whole_row_period(self, every: int) -> None:
        """As `Loader.set_whole_row_period`."""
        self._shapes = {
            length: shape._replace(whole_row_period=every) for length, shape in self._shapes.items()
        }
        self._loaded = None

    def _loader(self, index: int) -> Loader:
        loaded = self._loaded  # one read: another thread may be in another chunk
        if loaded is None or loaded[0] != index:
            first, end = map(int, self._first[index : index + 2])
            [seed] = np.random.SeedSequence([self._seed, index]).generate_state(1, np.uint64)
            self._loaded = loaded = None  # before the next is made
            windows = Windows(self._windows.record_batch.slice(first, end - first))
            loader = Loader(windows, seed=int(seed), **self._options)
            loader.shapes = [self._shapes.get(shape.length, shape) for shape in loader.shapes]
            loader.counted = self._counted and (self._counted[0][first:end], self._counted[1])
            self._loaded = loaded = index, loader
        return loaded[1]

    def count_outputs(self, output_counts: np.ndarray, steps: int, parts: int = 1) -> None:
        """As `Loader.count_outputs`."""
        epochs = -(-steps // self.steps_per_epoch)
        most = dict.fromkeys(self._shapes, 0)
        for index in range(len(self._steps)):
            one = self._loader(index)
            own = output_counts[self._first[index] : self._first[index + 1]]
            one.count_outputs(own, epochs * one.steps_per_epoch, parts)
            for shape in one.shapes:
                most[shape.length] = max(most[shape.length], shape.output_count)
        self._shapes = {
            length: shape._replace(output_count=most[length]) for length, shape in self._shapes.items()
        }
        self._counted, self._loaded = (output_counts, parts), None

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
            order = random_permutation(
                np.random.PCG64(np.random.SeedSequence([self._seed, epoch])), len(order)
            )
        begin = offsets_from_lengths(self._steps[order])
        place = int(np.searchsorted(begin, index, side="right")) - 1
        chunk = int(order[place])
        batch = self._loader(chunk).batch(epoch * int(self._steps[chunk]) + index - int(begin[place]))
        return batch._replace(
            windows=np.where(batch.windows < 0, -1, batch.windows + self._first[chunk]).astype(np.int32)
        )
