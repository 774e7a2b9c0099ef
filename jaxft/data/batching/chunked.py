"""Serves batches of more windows than are planned at once: one chunk after the other, in memory that doesn't grow."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.loader import BatchLayout, KeepLatest, Loader, OutputCounts, split_step
from jaxft.data.batching.plan import RowPlan, random_permutation
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths

CHUNK_WINDOWS = 1 << 19  # their plan takes about 260 bytes each


class Chunks(NamedTuple):
    """The facts that are kept of the plans of all chunks.

    Attributes:
      offsets: int64 `[C + 1]`, where each chunk begins in the windows, and where the last one ends.
      steps: int64 `[C]`, the steps that each takes.
      shapes: the shapes of all chunks, by rising length.
      padding_fraction: the share of slots that are padding.
    """

    offsets: np.ndarray
    steps: np.ndarray
    shapes: tuple[Shape, ...]
    padding_fraction: float


PlanChunk = Callable[[np.ndarray], RowPlan]  # from the lengths of a chunk's windows


def plan_chunks(windows: Windows, plan_chunk: PlanChunk, chunk: int) -> Chunks:
    """Plans chunks of nearly equal size, of at most `chunk` windows, one after the other."""
    count = max(1, -(-len(windows) // chunk))
    offsets = np.linspace(0, len(windows), count + 1).astype(np.int64)
    steps, tokens, slots, shapes = [], 0.0, 0, []
    for first, end in itertools.pairwise(offsets.tolist()):
        plan = plan_chunk(_slice_windows(windows, slice(first, end)).lengths)
        steps.append(plan.steps_per_epoch)
        slots += plan.slots
        tokens += plan.slots * (1 - plan.padding_fraction)
        shapes += plan.shapes
    # Chunks have the same shapes, up to their periods and to lengths that not all use.
    periods = {
        shape._replace(whole_row_period=0): [
            other.whole_row_period for other in shapes if other.length == shape.length
        ]
        for shape in sorted(shapes)
    }
    common = tuple(
        shape._replace(whole_row_period=common_whole_row_period(of_chunks))
        for shape, of_chunks in periods.items()
    )
    padding_fraction = 1 - tokens / slots if slots else 0.0
    return Chunks(offsets, np.array(steps, np.int64), common, padding_fraction)


def common_whole_row_period(periods: Iterable[int]) -> int:
    """Returns the smallest period that is not 0: rows that fit a larger one fit it too. 0 if all are."""
    return min((period for period in periods if period), default=0)


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkedLoader:
    """The batches of one chunk's plan after the other; see `choice.make_loader`. Implements `Batches`.

    An epoch takes the chunks in an order drawn anew, and each as a `Loader` takes all: windows are shuffled within
    chunks, every window comes exactly once, and a chunk's last step may have empty rows. A batch is still a pure
    function of seed and step. Without `layout.segments`, S is each chunk's own.
    """

    windows: Windows
    chunks: Chunks
    plan_chunk: PlanChunk
    layout: BatchLayout
    seed: int | None
    output_counts: OutputCounts | None = None

    @property
    def window_count(self) -> int:
        """Number of windows."""
        return len(self.windows)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of all chunks, by rising length."""
        return self.chunks.shapes

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, of all chunks."""
        return int(self.chunks.steps.sum())

    @property
    def padding_fraction(self) -> float:
        """The share of slots that are padding."""
        return self.chunks.padding_fraction

    def with_whole_row_period(self, period: int) -> "ChunkedLoader":
        """Returns the loader for another period; see `Loader.with_whole_row_period`."""
        shapes = tuple(shape._replace(whole_row_period=period) for shape in self.shapes)
        return dataclasses.replace(self, chunks=self.chunks._replace(shapes=shapes))

    def with_output_counts(self, of_window: np.ndarray, steps: int, microbatches: int = 1) -> "ChunkedLoader":
        """Returns the loader whose `shapes` have output counts; see `Loader.with_output_counts`."""
        epochs = -(-steps // self.steps_per_epoch)
        largest = dict.fromkeys([shape.length for shape in self.shapes], 0)
        for index, chunk_steps in enumerate(self.chunks.steps.tolist()):
            counts = of_window[_chunk_slice(self.chunks, index)]
            loader = self._chunk_loader(index).with_output_counts(counts, epochs * chunk_steps, microbatches)
            for shape in loader.shapes:
                largest[shape.length] = max(largest[shape.length], shape.output_count)
        shapes = tuple(shape._replace(output_count=largest[shape.length]) for shape in self.shapes)
        counts = OutputCounts(of_window, microbatches)
        return dataclasses.replace(self, chunks=self.chunks._replace(shapes=shapes), output_counts=counts)

    def order(self) -> str:
        """Hashes the order of the first chunk; the others are cut and shuffled in the same way."""
        return self._chunk_loader(0).order()

    def batch(self, step: int) -> Batch:
        """Returns the batch of any step from 0 on. Raises IndexError if there is none."""
        epoch, index = split_step(step, self.steps_per_epoch)
        steps, order = self.chunks.steps, np.arange(len(self.chunks.steps))
        if self.seed is not None:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
            order = random_permutation(bits, len(order))
        begin = offsets_from_lengths(steps[order])
        place = int(np.searchsorted(begin, index, side="right")) - 1
        chunk = int(order[place])
        batch = self._chunk_loader(chunk).batch(epoch * int(steps[chunk]) + index - int(begin[place]))
        windows = np.where(batch.windows < 0, -1, batch.windows + self.chunks.offsets[chunk])
        return batch._replace(windows=windows.astype(np.int32))

    @functools.cached_property
    def _chunk_loader(self) -> Callable[[int], Loader]:
        """Makes the loader of a chunk by number."""
        facts = self.windows, self.chunks, self.plan_chunk, self.layout, self.seed, self.output_counts
        return KeepLatest(functools.partial(_make_chunk_loader, *facts))


def _make_chunk_loader(
    windows: Windows,
    chunks: Chunks,
    plan_chunk: PlanChunk,
    layout: BatchLayout,
    seed: int | None,
    output_counts: OutputCounts | None,
    index: int,
) -> Loader:
    """Plans a chunk once more and returns its loader, whose shapes are those of all chunks."""
    chunk = _chunk_slice(chunks, index)
    chunk_windows = _slice_windows(windows, chunk)
    plan = plan_chunk(chunk_windows.lengths)
    shape_of_length = {shape.length: shape for shape in chunks.shapes}
    plan = plan.with_shapes(tuple(shape_of_length[shape.length] for shape in plan.shapes))
    if seed is not None:
        [seed] = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64).tolist()
    if output_counts is not None:
        output_counts = output_counts._replace(of_window=output_counts.of_window[chunk])
    return Loader(chunk_windows, plan, layout, seed, output_counts)


def _chunk_slice(chunks: Chunks, index: int) -> slice:
    return slice(int(chunks.offsets[index]), int(chunks.offsets[index + 1]))


def _slice_windows(windows: Windows, chunk: slice) -> Windows:
    return Windows(windows.record_batch.slice(chunk.start, chunk.stop - chunk.start))
