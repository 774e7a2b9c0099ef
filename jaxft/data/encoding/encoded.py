"""Defines what loaders read: encoded examples, which write themselves into the arrays of a batch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np


class ArraySpec(NamedTuple):
    """The dtype and shape of one array of a batch.

    Attributes:
      dtype: the dtype of the array.
      per: what has a value: each "slot", `[R, L, *shape]`; each "segment", `[R, S, *shape]`; or each "row",
        `[R, *shape]`.
      shape: the shape of a value.
    """

    dtype: type
    per: str = "slot"
    shape: tuple[int, ...] = ()

    def shape_in(self, rows: int, length: int, segments: int | None) -> tuple[int, ...]:
        """Returns the shape of the array in a batch of `rows` rows with `length` slots and `segments` segments."""
        if self.per == "segment":
            assert segments is not None
            return (rows, segments, *self.shape)
        return (rows, *((length,) if self.per == "slot" else ()), *self.shape)


class Placement(NamedTuple):
    """The windows of a batch and their places, row by row, from the left. All arrays are int64 `[K]`.

    Seed and epoch are for data that is drawn anew in each epoch, such as masks.

    Attributes:
      windows: the windows.
      rows: the batch row of each window.
      segments: the number of each window in its row, from 0.
      starts: the slot of the row where each window begins.
      lengths: the number of slots that each window takes.
      seed: the seed of the loader; 0 for one in a fixed order.
      epoch: the number of the epoch; 0 in a fixed order.
    """

    windows: np.ndarray
    rows: np.ndarray
    segments: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    seed: int = 0
    epoch: int = 0

    def in_rows(self, only: np.ndarray, rows: int) -> "Placement":
        """Returns the windows in some rows, which are then numbered from 0.

        Args:
          only: the rows to keep, ascending.
          rows: number of rows in the batch.
        """
        row_index = np.full(rows, -1)
        row_index[only] = np.arange(len(only))
        indices = row_index[self.rows]
        kept = np.flatnonzero(indices >= 0)
        return self._replace(
            windows=self.windows[kept],
            rows=indices[kept],
            segments=self.segments[kept],
            starts=self.starts[kept],
            lengths=self.lengths[kept],
        )


class Encoded(Protocol):
    """The encoded examples of a data set: N windows, each of which takes some slots of a row.

    A window is a piece of text, whose slots are tokens, or something that takes a row of one slot, such as an image.
    """

    def __len__(self) -> int:
        """Returns N."""

    @property
    def lengths(self) -> np.ndarray:
        """The number of slots that each window takes: int32 `[N]`."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content."""

    def slice(self, first: int, end: int) -> "Encoded":
        """Returns the windows from `first` up to `end`, without a copy."""

    def fill(
        self, placement: Placement, specs: Mapping[str, ArraySpec], *, rows: int, length: int, segments: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of `specs` by name, with the placed windows; what has none is 0.

        Args:
          placement: the windows and their places.
          specs: the dtype and shape of each array.
          rows, length, segments: the numbers of rows, of slots in a row, and of windows in a row at most.
        """


@dataclass(frozen=True)
class Rows:
    """Encoded examples of which each takes a row of its own. Implements `Encoded`.

    Attributes:
      arrays: the values of all N examples by name, `[N, ...]`.
    """

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Ones, int32 `[N]`: each example takes a row of one slot."""
        return np.ones(len(self), np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            digest.update(name.encode() + np.ascontiguousarray(self.arrays[name]).data)
        return digest.hexdigest()

    def slice(self, first: int, end: int) -> "Rows":
        """Returns the examples from `first` up to `end`, without a copy."""
        return Rows({name: values[first:end] for name, values in self.arrays.items()})

    def fill(
        self, placement: Placement, specs: Mapping[str, ArraySpec], *, rows: int, length: int, segments: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of `specs` by name, with the values of the placed examples and 0 in other rows."""
        filled: dict[str, np.ndarray] = {
            name: np.zeros((rows, *spec.shape), spec.dtype) for name, spec in specs.items()
        }
        for name, values in filled.items():
            values[placement.rows] = self.arrays[name][placement.windows]
        return filled
