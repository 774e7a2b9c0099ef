"""Plans an epoch: which windows the rows hold, and which rows each step takes, by seed and epoch alone."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.data.batching.packing import (
    PackedRows,
    bucket_index,
    choose_block_length,
    choose_whole_row_period,
    default_edges,
    one_window_rows,
    pack_rows,
)

OUTPUT_MULTIPLE = 16  # output counts are multiples of it: as many lines go through a CPU's products at a time


class EpochPlan(NamedTuple):
    """The windows and rows that one epoch draws.

    Attributes:
      windows: int64 `[N]`, the window at each place of `PackedRows.members`.
      step_rows: int64 `[steps, R]`, the rows of each step, -1 for an empty row.
      step_shapes: int64 `[steps]`, which of the plan's shapes each step has.
    """

    windows: np.ndarray
    step_rows: np.ndarray
    step_shapes: np.ndarray


DrawEpoch = Callable[
    [tuple[Shape, ...], int | None, int], EpochPlan
]  # from shapes, seed (None: fixed order), epoch


class Plan(NamedTuple):
    """Rows that are made up once, and a pure function that draws each epoch's use of them.

    Attributes:
      rows: the rows; an epoch puts windows of the same lengths there.
      shapes: the shapes of batches, by rising length.
      steps_per_epoch: number of steps, the same for each epoch.
      slots: slots of an epoch.
      padding_fraction: the share of them that are padding.
      draw_epoch: called with `shapes`, of which it heeds `whole_row_period`.
    """

    rows: PackedRows
    shapes: tuple[Shape, ...]
    steps_per_epoch: int
    slots: int
    padding_fraction: float
    draw_epoch: DrawEpoch


def draw_epoch(
    packed: PackedRows,
    rows_of_shape: Sequence[np.ndarray],
    lengths: np.ndarray,
    by_length: np.ndarray,
    shapes: tuple[Shape, ...],
    seed: int | None,
    epoch: int,
) -> EpochPlan:
    """Draws which of the windows of equal length goes where, and the order of rows and steps.

    This equals shuffling the windows, then packing them by best fit, but does not pack again.

    Args:
      packed: the rows.
      rows_of_shape: which of them each shape has.
      lengths: int64 `[N]`, of the windows.
      by_length: int64 `[N]`, the windows, shortest first.
      shapes: of batches.
      seed: of the drawing; None keeps a fixed order.
      epoch: its number.
    """
    windows, orders = packed.members, [np.arange(len(rows)) for rows in rows_of_shape]
    steps = [-(-len(rows) // shapes[0].rows) for rows in rows_of_shape]
    step_shapes, step_order = np.repeat(np.arange(len(shapes)), steps), np.arange(sum(steps))
    period = shapes[0].whole_row_period
    whole_row_places = np.arange(0, len(orders[0]), period) if period else np.empty(0, np.int64)
    if seed is not None:
        bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        replacement = np.empty_like(by_length)
        replacement[by_length] = shuffle_equal_lengths(bits, lengths)
        windows = replacement[windows]
        orders = [random_permutation(bits, len(order)) for order in orders]
        if len(orders) > 1:
            step_order = random_permutation(bits, len(step_order))
        whole_row_places = whole_row_places[random_permutation(bits, len(whole_row_places))]
    if period > 1:
        orders = [_place_whole_rows(orders[0], packed.whole_rows, whole_row_places)]
    step_rows = [
        _cut_into_steps(rows[order], shapes[0].rows)
        for rows, order in zip(rows_of_shape, orders, strict=True)
    ]
    return EpochPlan(windows, np.concatenate(step_rows)[step_order], step_shapes[step_order])


def _cut_into_steps(rows: np.ndarray, rows_per_step: int) -> np.ndarray:
    """Returns `[steps, R]`, the last step filled up with -1."""
    steps = np.full((-(-len(rows) // rows_per_step), rows_per_step), -1, np.int64)
    steps.reshape(-1)[: len(rows)] = rows
    return steps


def _place_whole_rows(order: np.ndarray, whole_rows: int, places: np.ndarray) -> np.ndarray:
    """Moves the first `whole_rows` rows to the first of the `places` in `order`, and keeps the others' order."""
    is_whole = order < whole_rows
    at_place = np.zeros(len(order), bool)
    at_place[places[:whole_rows]] = True
    placed = np.empty_like(order)
    placed[at_place], placed[~at_place] = order[is_whole], order[~is_whole]
    return placed


def plan_rows(
    lengths: np.ndarray,
    *,
    rows: int,
    max_length: int,
    pack: bool = True,
    buckets: Sequence[int] | None = None,
    max_segments: int | None = None,
    block_length: int | None = None,
) -> Plan:
    """Makes up the rows of windows of these `lengths`, each of which comes exactly once an epoch.

    Args:
      lengths: int `[N]`, of the windows.
      rows: rows of a batch.
      max_length: slots of a packed row.
      pack: whether windows share rows; else each row holds one, and has the length of its bucket.
      buckets: rising row lengths for `pack=False`; default powers of two up to `max_length`.
      max_segments: windows that a packed row holds at most; default as many as fit.
      block_length: slots of a block of packed rows, 0 for whole rows (all batches then have one shape, whatever the
        windows are); default the one that takes least time.

    Raises:
      ValueError: a window is longer than `max_length`, or than the last bucket.
    """
    lengths = lengths.astype(np.int64)
    period = 0
    if pack:
        if block_length is None:
            block_length = choose_block_length(lengths, rows, max_length, max_segments)
        packed = pack_rows(lengths, Shape(rows, max_length, block_length), max_segments)
        count = len(packed.offsets) - 1
        if block_length:
            period = choose_whole_row_period(packed.whole_rows, count, rows)
        edges, edge_of_row = [max_length], np.zeros(count, np.int64)
    else:
        block_length, packed = 0, one_window_rows(len(lengths))
        edges = default_edges(max_length) if buckets is None else list(buckets)
        edge_of_row = bucket_index(lengths, edges)
    used = np.unique(edge_of_row)
    shapes = tuple(Shape(rows, int(edges[index]), block_length, period) for index in used)
    rows_of_shape = [np.flatnonzero(edge_of_row == index) for index in used]
    steps = [-(-len(shape_rows) // rows) for shape_rows in rows_of_shape]
    slots = sum(count * shape.slots for count, shape in zip(steps, shapes, strict=True))
    by_length = np.argsort(lengths, kind="stable")
    return Plan(
        packed,
        shapes,
        sum(steps),
        slots,
        float(1 - lengths.sum() / slots) if slots else 0.0,
        functools.partial(draw_epoch, packed, rows_of_shape, lengths, by_length),
    )


def random_permutation(bits: np.random.BitGenerator, count: int) -> np.ndarray:
    """Draws a random order of `count` things; from raw bits, since numpy may change `permutation` between versions."""
    return np.argsort(bits.random_raw(count), kind="stable")


def shuffle_equal_lengths(bits: np.random.BitGenerator, lengths: np.ndarray) -> np.ndarray:
    """Sorts windows of these `lengths` by length, those of equal length in random order: int64 `[N]`, indices."""
    shuffled = random_permutation(bits, len(lengths))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")]


def count_outputs(
    plan: Plan, epochs: Iterable[EpochPlan], output_counts: np.ndarray, microbatches: int
) -> tuple[Shape, ...]:
    """Returns the plan's shapes with `output_count`: the most positions that a microbatch of `epochs` reads.

    output_counts: int64 `[N]`, positions that the loss reads in each window.
    """
    largest = np.zeros(len(plan.shapes), np.int64)
    for epoch in epochs:
        count_of_row = np.add.reduceat(output_counts[epoch.windows], plan.rows.offsets[:-1])
        counts = np.where(epoch.step_rows < 0, 0, count_of_row[epoch.step_rows])
        counts = counts.reshape(len(counts), microbatches, -1).sum(axis=-1)
        np.maximum.at(largest, epoch.step_shapes, counts.max(axis=-1))
    largest = -(-largest // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE
    return tuple(
        shape._replace(output_count=min(int(count), shape.slots // microbatches))
        for shape, count in zip(plan.shapes, largest, strict=True)
    )
