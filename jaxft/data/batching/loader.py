"""Loads batches of windows as numpy arrays. Each batch is a pure function of the seed and the step.

Google's grain packs in an iterator over a few open rows. It cannot return a step by number, and a resumed run has to
restore the iterator's state. Here a resumed run needs only the step, and best-fit packing sees all windows.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.plan import EpochPlan, Plan, largest_sums, place_windows
from jaxft.data.encoding.encoded import ArraySpec, Encoded


class BatchLayout(NamedTuple):
    """The layout of a batch's arrays.

    Attributes:
      arrays: the specs of the arrays by name.
      segments: the S of `[R, S]`, which is the most windows that a row may hold; None for the maximum over the plan's
        rows.
      only: the rows, ascending, whose arrays this process builds; None for all. `windows`, `starts` and everything else
        in a batch still cover all rows.
    """

    arrays: Mapping[str, ArraySpec]
    max_segments: int | None = None
    only: np.ndarray | None = None


class Latest:
    """Caches the latest result of a pure function of an integer, and frees it before computing the next."""

    def __init__(self) -> None:
        self._latest: tuple[int, Any] | None = None

    def get(self, number: int, function: Callable[[int], Any]) -> Any:
        """Returns `function(number)`, from the cache if it is the latest result."""
        latest = self._latest  # read once: another thread may replace it
        if latest is None or latest[0] != number:
            self._latest = latest = None  # frees memory before the next result is computed
            self._latest = latest = number, function(number)
        return latest[1]


def split_step(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """Returns (epoch, number of the step in the epoch). Raises IndexError if there is no such step."""
    if step < 0 or steps_per_epoch == 0:
        raise IndexError(f"no batch {step}: {steps_per_epoch} steps an epoch")
    return divmod(step, steps_per_epoch)


@dataclasses.dataclass(frozen=True, eq=False)
class Loader:
    """Loads the batches of a plan; see `choice.make_loader`. Implements `Batches`.

    Empty rows fill up the last step of an epoch; with buckets, the last step of each bucket.

    Attributes:
      windows: the planned windows.
      plan: the plan of their rows.
      layout: the layout of the arrays.
      seed: the seed of shuffling; None for a fixed order.
    """

    windows: Encoded
    plan: Plan
    layout: BatchLayout
    seed: int | None
    _latest: Latest = dataclasses.field(default_factory=Latest)  # the plan of the latest epoch

    @property
    def window_count(self) -> int:
        """Number of windows."""
        return len(self.windows)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of batches, shortest rows first."""
        return self.plan.shapes

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return self.plan.steps_per_epoch

    @property
    def padding_fraction(self) -> float:
        """The fraction of slots that is padding."""
        return self.plan.padding_fraction

    def with_whole_row_period(self, period: int) -> "Loader":
        """Returns this loader, with windows longer than a block only in every `period`-th row.

        Args:
          period: must divide the number of rows, and be at most the period of `shapes`.
        """
        shapes = tuple(shape.with_whole_row_period(period) for shape in self.shapes)
        return Loader(self.windows, self.plan._replace(shapes=shapes), self.layout, self.seed)

    def largest_sums(self, values: np.ndarray, *, steps: int, groups: int) -> np.ndarray:
        """Returns, for each of `shapes`, the largest sum of the values of windows in a group of a batch, int64.

        Args:
          values: int64 `[N]`, of each window.
          steps: the number of batches to look at, which is rounded up to whole epochs.
          groups: the number of groups of consecutive rows in a batch.
        """
        epochs = -(-steps // self.steps_per_epoch) if self.seed is not None else 1
        return largest_sums(self.plan, map(self._epoch_plan, range(epochs)), values, groups)

    @functools.cached_property
    def _segments(self) -> int:
        return self.layout.max_segments or int(np.diff(self.plan.rows.offsets).max(initial=1))

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        number = epoch if self.seed is not None else 0
        return self._latest.get(number, functools.partial(self.plan.draw_epoch, self.shapes, self.seed))

    def order(self) -> str:
        """Hashes the order of the first epoch: the row and slot of each window, and the step of each row."""
        hashed = hashlib.sha256()
        for array in (self.plan.rows.offsets, self.plan.rows.starts, *self._epoch_plan(0)):
            hashed.update(np.ascontiguousarray(array, np.int64).data)
        return hashed.hexdigest()

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0. Raises IndexError if there is no such step."""
        epoch, index = split_step(step, self.steps_per_epoch)
        drawn = self._epoch_plan(epoch)
        shape: Shape = self.shapes[drawn.step_shapes[index]]
        placement = place_windows(self.windows.lengths, self.plan.rows, drawn, index)
        if self.seed is not None:
            placement = placement._replace(seed=self.seed, epoch=epoch)
        only = self.layout.only
        arrays = self.windows.fill(
            placement if only is None else placement.in_rows(only, shape.rows),
            self.layout.arrays,
            rows=shape.rows if only is None else len(only),
            length=shape.length,
            segments=self._segments,
        )
        windows = np.full((shape.rows, self._segments), -1, np.int32)
        starts = np.zeros((shape.rows, self._segments), np.int32)
        windows[placement.rows, placement.segments] = placement.windows
        starts[placement.rows, placement.segments] = placement.starts
        return Batch(arrays, windows, starts, int(placement.lengths.sum()), shape)
