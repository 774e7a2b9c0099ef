"""Plans how often each data set comes in training, and whether a step mixes rows of several data sets."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.data.batching.packing import PackedRows, bucket_index, one_window_rows, pack_rows
from jaxft.data.batching.plan import EpochPlan, Plan, random_permutation, shuffle_equal_lengths
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.errors import UserError


class Mix(NamedTuple):
    """The proportions in which data sets are mixed.

    The number of windows drawn from a data set of n windows is proportional to one of these:

    - "size": n.
    - "temperature": n ** (1 / T). T = 1 is "size", and an infinite T draws equally from all data sets. Devlin's
      multilingual BERT (2019) uses T = 1 / 0.7.
    - "weights": the data set's weight.

    The number of rows follows from the number of windows in a row. Each data set has at least one row in each epoch, or
    one step if `by_task`.

    Attributes:
      kind: "size", "temperature" or "weights".
      temperature: T.
      weights: a weight for each data set.
      by_task: True if all rows of a step come from one data set.
    """

    kind: str = "size"
    temperature: float = 1.0
    weights: tuple[float, ...] = ()
    by_task: bool = False

    def window_shares(self, counts: np.ndarray) -> np.ndarray:
        """Returns numbers in proportion to the windows that are drawn from data sets of `counts` windows, float `[S]`.

        Raises:
          UserError: the number of weights differs from the number of data sets.
        """
        if len(self.weights) not in (0, len(counts)):
            raise UserError(
                f"config.data.mix_weights={self.weights} has {len(self.weights)} numbers for "
                f"{len(counts)} data sets; give one for each, in the order in which config.data.train names them"
            )
        if self.kind == "temperature":
            return counts ** (1 / self.temperature)
        return np.array(self.weights if self.kind == "weights" else counts, float)


WINDOWS_ONCE = Mix()  # each window comes once an epoch


class DataSetRows(NamedTuple):
    """The rows of one data set in a mixed plan.

    Attributes:
      windows: int64 `[N]`, the data set's windows, ascending.
      by_length: int64 `[N]`, the same windows, shortest first.
      row_count: number of rows.
      rows_per_epoch: number of rows drawn in each epoch.
      first_row: the first of its rows in the plan, which holds a copy of them for each pass that an epoch may touch.
    """

    windows: np.ndarray
    by_length: np.ndarray
    row_count: int
    rows_per_epoch: int
    first_row: int


def draw_mixed_epoch(
    packed: PackedRows,
    data_sets: Sequence[DataSetRows],
    lengths: np.ndarray,
    by_task: bool,
    shapes: tuple[Shape, ...],
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Draws the rows of each data set, and their order; if `by_task`, the order of steps.

    An epoch has as many rows as all data sets together. Each data set is read in passes, and every window comes exactly
    once in a pass. If an epoch ends in the middle of a pass, the next epoch continues that pass. If `by_task`, all rows
    of a step come from one data set.
    """
    windows, replacement = packed.members.copy(), np.arange(len(lengths))
    drawn = []
    for index, data_set in enumerate(data_sets):
        count, per_epoch = data_set.row_count, data_set.rows_per_epoch
        start = epoch * per_epoch
        sequence = []
        for copy, number in enumerate(range(start // count, (start + per_epoch - 1) // count + 1)):
            bits = np.random.PCG64(np.random.SeedSequence([seed, index, number, 1]))
            shuffled = shuffle_equal_lengths(bits, lengths[data_set.windows])
            replacement[data_set.by_length] = data_set.windows[shuffled]
            first = data_set.first_row + copy * count
            members = slice(packed.offsets[first], packed.offsets[first + count])
            windows[members] = replacement[packed.members[members]]
            sequence.append(first + random_permutation(bits, count))
        drawn.append(np.concatenate(sequence)[start % count :][:per_epoch])
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch, 0, 2]))
    step_rows = np.concatenate(drawn)
    if not by_task:
        step_rows = step_rows[random_permutation(bits, len(step_rows))]
    step_rows = step_rows.reshape(-1, shapes[0].rows)
    if by_task:
        step_rows = step_rows[random_permutation(bits, len(step_rows))]
    return EpochPlan(windows, step_rows, np.zeros(len(step_rows), np.int64))


def plan_mixed_rows(
    windows: Windows, mix: Mix, *, rows: int, max_length: int, pack: bool, max_segments: int | None
) -> Plan:
    """Plans rows that each hold windows of one data set. All rows have the same length, so any can share a step.

    Args:
      windows: the encoded data, with a column `data_set`.
      mix: the proportions.
      rows, max_length, pack, max_segments: as in `plan_rows`.

    Raises:
      UserError: a data set has no window, an epoch has fewer rows (or steps, if by task) than data sets, or the number
        of weights differs from the number of data sets.
      ValueError: a window is longer than `max_length`.
    """
    set_of_window, lengths = windows.column("data_set"), windows.lengths.astype(np.int64)
    window_counts = np.bincount(set_of_window)
    window_shares, sets = mix.window_shares(window_counts), len(window_counts)
    if not pack:
        bucket_index(lengths, [max_length])
    shape = Shape(rows, max_length)
    windows_of_set = [np.flatnonzero(set_of_window == index) for index in range(sets)]
    packed = [
        pack_rows(lengths[set_windows], shape, max_segments) if pack else one_window_rows(len(set_windows))
        for set_windows in windows_of_set
    ]
    row_counts = np.array([len(rows_of_set.offsets) - 1 for rows_of_set in packed])
    if not row_counts.all():
        raise UserError(
            f"data set {int(np.argmin(row_counts)) + 1} of {sets} in config.data.train has no text; leave it out"
        )
    steps = -(-int(row_counts.sum()) // rows)
    draws = steps if mix.by_task else steps * rows
    if draws < sets:
        raise UserError(
            f"an epoch has {draws} {'steps' if mix.by_task else 'rows'} for {sets} data sets; make "
            "config.batch.rows smaller"
        )
    drawn = _apportion(draws, window_shares * row_counts / window_counts) * (rows if mix.by_task else 1)
    tokens = np.bincount(set_of_window, lengths, minlength=sets)
    # The table holds a copy of each row for each pass that an epoch may touch.
    copies = -(-drawn // row_counts) + 1
    members, starts, sizes, data_sets, first_row = [], [], [], [], 0
    for index, rows_of_set in enumerate(packed):
        set_windows, count = windows_of_set[index], int(row_counts[index])
        members.append(np.tile(set_windows[rows_of_set.members], copies[index]))
        starts.append(np.tile(rows_of_set.starts, copies[index]))
        sizes.append(np.tile(np.diff(rows_of_set.offsets), copies[index]))
        by_length = set_windows[np.argsort(lengths[set_windows], kind="stable")]
        data_sets.append(DataSetRows(set_windows, by_length, count, int(drawn[index]), first_row))
        first_row += int(copies[index]) * count
    table = PackedRows(
        np.concatenate(members), np.concatenate(starts), offsets_from_lengths(np.concatenate(sizes)), 0
    )
    slots = int(drawn.sum()) * max_length
    padding_fraction = float(1 - (drawn * tokens / row_counts).sum() / slots)
    draw_epoch = functools.partial(draw_mixed_epoch, table, data_sets, lengths, mix.by_task)
    return Plan(table, (shape,), steps, slots, padding_fraction, draw_epoch)


def _apportion(count: int, shares: np.ndarray) -> np.ndarray:
    """Splits `count` into integers of at least 1 in proportion to `shares`, by largest remainder; returns int64."""
    exact = count * shares / shares.sum()
    numbers = np.maximum(np.floor(exact).astype(np.int64), 1)
    while numbers.sum() != count:
        if numbers.sum() < count:
            numbers[np.argmax(exact - numbers)] += 1
        else:
            numbers[np.argmax(np.where(numbers > 1, numbers - exact, -np.inf))] -= 1
    return numbers
