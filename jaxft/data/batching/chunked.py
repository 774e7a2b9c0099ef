"""Loads batches of large data sets. Windows are planned in chunks, one after another, in bounded memory."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import numpy as np

from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.loader import BatchLayout, Latest, Loader, split_step
from jaxft.data.batching.plan import Plan, random_permutation
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.ragged import offsets_from_lengths

CHUNK_WINDOWS = 1 << 19  # a plan takes about 260 bytes for each window

PlanChunk = Callable[[np.ndarray], Plan]  # lengths of a chunk's windows -> its plan


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkedLoader:
    """Loads the batches of one chunk after another; see `make_chunked_loader`. Implements `Batches`.

    Each epoch draws a new order of chunks and loads each chunk as a `Loader` would: windows are shuffled within chunks,
    every window comes exactly once, and a chunk's last step may have empty rows. A batch is still a pure function of
    the seed and the step. If `layout.segments` is None, S may differ between chunks.

    Attributes:
      windows: the windows of all chunks.
      offsets: int64 `[C + 1]`, the first window of each chunk and the end of the last one.
      chunk_steps: int64 `[C]`, the steps of each chunk in an epoch.
      shapes: the shapes of all chunks, shortest rows first.
      padding_fraction: the fraction of slots that is padding.
      plan_chunk: plans a chunk.
      layout: the layout of the arrays.
      seed: the seed of shuffling; None for a fixed order.
    """

    windows: Encoded
    offsets: np.ndarray
    chunk_steps: np.ndarray
    shapes: tuple[Shape, ...]
    padding_fraction: float
    plan_chunk: PlanChunk
    layout: BatchLayout
    seed: int | None
    _latest: Latest = dataclasses.field(default_factory=Latest, init=False)  # the loader of the latest chunk

    @property
    def window_count(self) -> int:
        """Number of windows."""
        return len(self.windows)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in all chunks."""
        return int(self.chunk_steps.sum())

    def with_whole_row_period(self, period: int) -> "ChunkedLoader":
        """Returns this loader with another period; see `Loader.with_whole_row_period`."""
        shapes = tuple(shape.with_whole_row_period(period) for shape in self.shapes)
        return dataclasses.replace(self, shapes=shapes)

    def largest_sums(self, values: np.ndarray, *, steps: int, groups: int) -> np.ndarray:
        """Returns, for each of `shapes`, the largest sum in a group; see `Loader.largest_sums`."""
        epochs = -(-steps // self.steps_per_epoch)
        largest = np.zeros(len(self.shapes), np.int64)
        for index, chunk_steps in enumerate(self.chunk_steps.tolist()):
            loader = self._chunk_loader(index)
            chunk_values = values[self.offsets[index] : self.offsets[index + 1]]
            sums = loader.largest_sums(chunk_values, steps=epochs * chunk_steps, groups=groups)
            np.maximum.at(largest, [self.shapes.index(shape) for shape in loader.shapes], sums)
        return largest

    def order(self) -> str:
        """Hashes the order of the first chunk. The other chunks are cut and shuffled in the same way."""
        return self._chunk_loader(0).order()

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0. Raises IndexError if there is no such step."""
        epoch, index = split_step(step, self.steps_per_epoch)
        steps, order = self.chunk_steps, np.arange(len(self.chunk_steps))
        if self.seed is not None:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
            order = random_permutation(bits, len(order))
        begin = offsets_from_lengths(steps[order])
        place = int(np.searchsorted(begin, index, side="right")) - 1
        chunk = int(order[place])
        batch = self._chunk_loader(chunk).batch(epoch * int(steps[chunk]) + index - int(begin[place]))
        windows = np.where(batch.windows < 0, -1, batch.windows + self.offsets[chunk])
        return batch._replace(windows=windows.astype(np.int32))

    def _chunk_loader(self, index: int) -> Loader:
        """Returns the loader of a chunk. Its shapes are the shapes of all chunks."""
        return self._latest.get(index, self._make_chunk_loader)

    def _make_chunk_loader(self, index: int) -> Loader:
        first, end = self.offsets[index : index + 2].tolist()
        windows, seed = self.windows.slice(first, end), self.seed
        plan, shape_of_length = (
            self.plan_chunk(windows.lengths),
            {shape.length: shape for shape in self.shapes},
        )
        plan = plan._replace(shapes=tuple(shape_of_length[shape.length] for shape in plan.shapes))
        if seed is not None:
            [seed] = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64).tolist()
        return Loader(windows, plan, self.layout, seed)


def make_chunked_loader(
    windows: Encoded, chunk: int, plan_chunk: PlanChunk, layout: BatchLayout, seed: int | None
) -> ChunkedLoader:
    """Cuts windows into chunks of nearly equal size, at most `chunk`, and plans each once to find shapes and steps."""
    count = max(1, -(-len(windows) // chunk))
    offsets = np.linspace(0, len(windows), count + 1).astype(np.int64)
    steps, tokens, slots = [], 0.0, 0
    periods: dict[
        Shape, list[int]
    ] = {}  # shape without its period -> the periods of chunks that have this shape
    for first, end in itertools.pairwise(offsets.tolist()):
        plan = plan_chunk(windows.slice(first, end).lengths)
        steps.append(plan.steps_per_epoch)
        slots += plan.slots
        tokens += plan.slots * (1 - plan.padding_fraction)
        for shape in plan.shapes:
            periods.setdefault(shape.with_whole_row_period(0), []).append(shape.blocks.whole_row_period)
    shapes = tuple(
        shape.with_whole_row_period(common_whole_row_period(periods[shape])) for shape in sorted(periods)
    )
    padding_fraction = 1 - tokens / slots if slots else 0.0
    return ChunkedLoader(
        windows, offsets, np.array(steps), shapes, padding_fraction, plan_chunk, layout, seed
    )


def common_whole_row_period(periods: Iterable[int]) -> int:
    """Returns the smallest period above 0, or 0 if all are 0. Rows that fit a larger period also fit a smaller one."""
    return min((period for period in periods if period), default=0)
