"""Fills the arrays of a batch with its windows, at the places that a plan assigns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import ArraySpec
from jaxft.data.batching.packing import PackedRows
from jaxft.data.batching.plan import EpochPlan
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange


class Placement(NamedTuple):
    """The windows of a batch and their places, row by row, from the left. All arrays are int64 `[K]`.

    Attributes:
      windows: the windows.
      rows: the batch row of each window.
      segments: the number of each window in its row, from 0.
      starts: the slot of the row where each window begins.
      lengths: the number of slots that each window takes.
    """

    windows: np.ndarray
    rows: np.ndarray
    segments: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

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
        placement = Placement(*(values[kept] for values in self))
        return placement._replace(rows=indices[kept])


def place_windows(lengths: np.ndarray, packed: PackedRows, epoch: EpochPlan, step: int) -> Placement:
    """Returns the places of the windows in an epoch's `step`.

    Args:
      lengths: int `[N]`, the length of each window of the data set.
      packed: the packed rows.
      epoch: the plan of the epoch.
      step: the number of the step in the epoch.
    """
    row_at = epoch.step_rows[step]
    filled = np.flatnonzero(row_at >= 0)
    rows = row_at[filled]
    begin = packed.offsets[rows]
    counts = packed.offsets[rows + 1] - begin
    members = ragged_arange(begin, counts)
    windows = epoch.windows[members]
    return Placement(
        windows,
        np.repeat(filled, counts),
        ragged_arange(0, counts),
        packed.starts[members],
        lengths[windows].astype(np.int64),
    )


def fill_segments(
    values: np.ndarray, placement: Placement, shape: tuple[int, ...], dtype, empty=0
) -> np.ndarray:
    """Returns an array `[R, S, ...]` of `shape`, with the value of each placed window and `empty` elsewhere."""
    filled = np.full(shape, empty, dtype)
    filled[placement.rows, placement.segments] = values
    return filled


def fill_arrays(
    windows: Windows,
    placement: Placement,
    specs: Mapping[str, ArraySpec],
    *,
    rows: int,
    length: int,
    segments: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """Returns the arrays of a `Batch` by name: `rows` rows of `length` slots with at most `segments` windows each."""
    lengths = placement.lengths
    source = ragged_arange(windows.offsets[placement.windows], lengths)
    position = ragged_arange(0, lengths)
    target = np.repeat(placement.rows * length + placement.starts, lengths) + position

    def fill(values, dtype=np.int32, empty=0) -> np.ndarray:
        flat = np.full(rows * length, empty, dtype)
        flat[target] = values
        return flat.reshape(rows, length)

    arrays = {
        "input_ids": fill(windows.input_ids[source], empty=pad_id),
        "segment_ids": fill(np.repeat(placement.segments + 1, lengths)),
        "positions": fill(position),
        "token_type_ids": fill(windows.column("token_type_ids")[source])
        if windows.has_column("token_type_ids")
        else np.zeros((rows, length), np.int32),
    }
    for name, spec in specs.items():
        if spec.per_segment:
            values = _segment_values(windows, placement, name)
            arrays[name] = fill_segments(values, placement, spec.shape_in(rows, length, segments), spec.dtype)
        elif name.endswith("labels"):
            labels = windows.column(name)[source]
            is_labelled = labels >= 0
            arrays[name] = fill(np.where(is_labelled, labels, 0))
            arrays[name.removesuffix("labels") + "weights"] = fill(is_labelled, np.float32)
    return arrays


def _segment_values(windows: Windows, placement: Placement, name: str) -> np.ndarray:
    """Returns the values of a per-segment array for the placed windows, `[K, ...]`."""
    if name == "starts":
        return placement.starts
    values = windows.column(name)[placement.windows]
    if name == "task_weights":  # append 1 for each window, so that the sum counts windows
        return np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)
    return values
