"""Adds to batches the positions that a loss reads, so that a network's last layer need compute no others."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Batch, Batches, Shape
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.sharded import ShardedLoader
from jaxft.data.encoding.windows import Windows

# Numbers of positions are rounded up to this: a CPU multiplies 16 rows of a matrix at a time.
OUTPUT_MULTIPLE = 16
# They are also rounded up to this part of all positions, so that another seed or more epochs, whose largest number
# differs by a hundredth, mostly have the same shape, and so the same compiled step. It costs about 0.3% of a step.
OUTPUT_PARTS = 16


class OutputRule(NamedTuple):
    """Says which positions a loss reads.

    Attributes:
      count_positions: returns the number of these positions in each window, int64 `[N]`.
      mask: returns where they are in the arrays of a batch, bool `[R, L]`.
    """

    count_positions: Callable[[Windows], np.ndarray]
    mask: Callable[[Mapping[str, np.ndarray]], np.ndarray]


def _first_tokens(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return (arrays["segment_ids"] > 0) & (arrays["positions"] == 0)


def _last_tokens(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    segments = arrays["segment_ids"]
    following = np.pad(segments[:, 1:], ((0, 0), (0, 1)))
    return (segments > 0) & (segments != following)


def _one_each(windows: Windows) -> np.ndarray:
    return np.ones(len(windows), np.int64)


LABELLED_TOKENS = OutputRule(lambda windows: windows.label_counts, lambda arrays: arrays["weights"] > 0)
FIRST_TOKENS = OutputRule(_one_each, _first_tokens)
LAST_TOKENS = OutputRule(_one_each, _last_tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class PrunedBatches:
    """Batches with an array `output_positions`, int32 `[G, P]`; see `Batch`. Implements `Batches`.

    Attributes:
      batches: the batches without that array.
      rule: says which positions the loss reads.
      shapes: the shapes of `batches`, in their order, with an `output_shape`.
    """

    batches: Batches
    rule: OutputRule
    shapes: tuple[Shape, ...]

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, the same for each epoch."""
        return self.batches.steps_per_epoch

    @property
    def window_count(self) -> int:
        """Number of windows in the data."""
        return self.batches.window_count

    @property
    def padding_fraction(self) -> float:
        """The fraction of an epoch's slots that is padding."""
        return self.batches.padding_fraction

    def order(self) -> str:
        """Hashes the order of windows."""
        return self.batches.order()

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0.

        Raises:
          IndexError: there is no such step.
          ValueError: the step is beyond those that were counted, and its loss reads more positions.
        """
        batch = self.batches.batch(step)
        shape = self.shapes[self.batches.shapes.index(batch.shape)]
        groups, count = shape.output_shape
        mask = self.rule.mask(batch.arrays)  # of this process's rows, which are whole groups
        mask = mask.reshape(groups * len(mask) // shape.rows, -1)
        arrays = batch.arrays | {"output_positions": select_positions(mask, count)}
        return batch._replace(arrays=arrays, shape=shape)


def prune_batches(
    batches: Loader | ChunkedLoader | ShardedLoader,
    rule: OutputRule,
    windows: Mapping[int, Windows],
    *,
    steps: int,
    groups: int,
) -> PrunedBatches:
    """Adds `output_positions` to batches, as many as a step needs at most.

    Args:
      batches: the batches.
      rule: says which positions the loss reads.
      windows: the windows of the batches, by shard number from 0.
      steps: the number of steps that will be asked for.
      groups: G, which divides the rows, and which the number of shards divides.
    """
    counts = {number: rule.count_positions(shard) for number, shard in windows.items()}
    if isinstance(batches, ShardedLoader):
        sums = batches.largest_sums(counts, steps=steps, groups=groups)
    else:
        sums = batches.largest_sums(counts[0], steps=steps, groups=groups)
    shapes = tuple(
        shape._replace(output_shape=(groups, _round_up(count, shape.slots // groups)))
        for shape, count in zip(batches.shapes, sums.tolist(), strict=True)
    )
    return PrunedBatches(batches, rule, shapes)


def _round_up(count: int, slots: int) -> int:
    """Returns the number of positions to compute in groups of `slots` positions, of which at most `count` are read."""
    multiple = OUTPUT_MULTIPLE * max(1, slots // (OUTPUT_PARTS * OUTPUT_MULTIPLE))
    return min(-(-max(count, 1) // multiple) * multiple, slots)


def select_positions(mask: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` positions of each group: first those where the mask is True, then others.

    Args:
      mask: bool `[G, N]`.
      count: P, at most N.

    Returns:
      int32 `[G, P]`, without repetition in a group.

    Raises:
      ValueError: the mask is True at more than `count` positions of a group.
    """
    most = int(mask.sum(axis=1).max())
    if most > count:
        raise ValueError(f"a loss reads {most} positions of a group, but there is room for {count}")
    return np.argsort(~mask, axis=1, kind="stable")[:, :count].astype(np.int32)
