"""Chooses the rows of a step so that it holds about as many windows as a run asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.batching.batch import Blocks, Shape
from jaxft.data.batching.mixed import Mix
from jaxft.data.batching.packing import SAMPLE, choose_block_length, pack_rows
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.encoding.windows import Windows


class WindowSample(NamedTuple):
    """A sample of the windows whose rows a step holds.

    Attributes:
      lengths: int64 `[N]`, the lengths of sampled windows, in order.
      share: how many windows are drawn from their data set, in proportion to the other data sets.
    """

    lengths: np.ndarray
    share: float


def sample_windows(
    windows: Mapping[int, Encoded], shards: int, gather: Callable[[Mapping[int, Any]], list[Any]], mix: Mix
) -> list[WindowSample]:
    """Samples the windows of the training data, the same in all processes: at most about `SAMPLE` of each data set.

    Args:
      windows: the windows of this process's shards by number, from 0.
      shards: the number of all shards.
      gather: gathers values by shard from all processes; each process must call this function.
      mix: the proportions of data sets.

    Returns:
      One sample of all windows if windows of any data set may share a row, else one of each data set.
    """
    if shards == 1 and (mix.kind != "size" or mix.by_task):
        text = windows[0]
        assert isinstance(text, Windows)  # only data sets of text are mixed
        set_of_window, lengths = text.column("data_set"), text.lengths
        counts = np.bincount(set_of_window)
        shares = mix.window_shares(counts)
        sets = [lengths[set_of_window == index] for index in range(len(counts))]
        return [
            WindowSample(_thin_out(set_lengths, 1), float(share))
            for set_lengths, share in zip(sets, shares, strict=True)
            if len(set_lengths)
        ]
    samples = {number: _thin_out(shard.lengths, shards).tolist() for number, shard in windows.items()}
    return [WindowSample(np.concatenate([np.array(lengths, np.int64) for lengths in gather(samples)]), 1.0)]


def _thin_out(lengths: np.ndarray, shards: int) -> np.ndarray:
    return np.asarray(lengths, np.int64)[:: max(1, len(lengths) * shards // SAMPLE)]


def windows_per_row(
    samples: Sequence[WindowSample], rows: int, max_length: int, max_segments: int | None
) -> float:
    """Returns the mean number of windows in a packed row of a step of `rows` rows."""
    per_share = 0.0
    for lengths, share in samples:
        # Rows of several data sets in proportions have no blocks.
        block = choose_block_length(lengths, rows, max_length, max_segments) if len(samples) == 1 else 0
        packed = pack_rows(lengths, Shape(rows, max_length, Blocks(block)), max_segments)
        per_share += share * (len(packed.offsets) - 1) / len(lengths)
    return sum(share for _, share in samples) / per_share


def choose_step_rows(
    samples: Sequence[WindowSample],
    windows: float,
    unit: int,
    max_length: int,
    max_segments: int | None,
) -> int:
    """Returns the multiple of `unit` whose packed rows hold about `windows` windows on average.

    Args:
      samples: the result of `sample_windows`.
      windows: the number of windows in a step.
      unit: what must divide the rows.
      max_length: number of slots in a row.
      max_segments: the most windows that a row may hold; by default as many as fit.
    """
    rows = unit
    # The number of rows decides about blocks, and blocks decide how many windows a row holds.
    for _ in range(2):
        per_row = windows_per_row(samples, rows, max_length, max_segments)
        rows = unit * max(1, int(windows / per_row / unit + 0.5))
    return rows
