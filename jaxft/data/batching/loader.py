"""Serves batches of packed windows as numpy arrays, each a pure function of the seed and the step."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.data.batching.batch import TOKEN_LABELS, ArraySpec, Batch, Shape
from jaxft.data.batching.packing import (
    Packed,
    bucket_index,
    choose_block_length,
    default_edges,
    pack_rows,
    whole_row_period,
)
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange

OUTPUT_MULTIPLE = 16  # of positions: a product's lines on a CPU


class Loader:
    """Random access to the batches of any epoch: `batch(step)`, epoch = step // steps_per_epoch.

    How rows are made up in lengths, and so the number of steps, is fixed once. An epoch then draws which of
    the windows of equal length goes where, and the order of rows: the same as to shuffle, then pack by best
    fit, but without packing anew. Every window comes exactly once an epoch; empty rows fill the last step
    (with buckets: each bucket's last). Packed rows are made up of blocks where attention gains by it, see `Shape`.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        rows: int,
        max_length: int,
        pack: bool = True,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int,
        buckets: Sequence[int] | None = None,
        arrays: Mapping[str, ArraySpec] = TOKEN_LABELS,
        segments: int | None = None,
        block: int | None = None,
        only: np.ndarray | None = None,
    ):
        """Makes up the rows.

        buckets: the rising row lengths for `pack=False`; default powers of two up to `max_length`. arrays: those
        of a batch. segments: windows that a row holds at most, which S then is; default as many as fit. block: what
        packed rows are made of, 0 for whole rows (all batches then have one shape, whatever the windows are); default
        the one that takes least time. only: those of a batch's `rows`, rising, whose arrays are built, the others being
        another process's; all else, `windows` and `starts` too, is of the whole batch.

        Raises ValueError for a window longer than `max_length`, or buckets that end below a window's length.
        """
        self._source, self.window_count = windows, len(windows)
        self._rows, self._seed, self._shuffle, self._pad_id = rows, seed, shuffle, pad_id
        only = np.arange(rows) if only is None else only
        self._built = len(only)
        self._place = np.full(rows, -1)  # of each row of a batch among those built
        self._place[only] = np.arange(self._built)
        self._lengths = lengths = windows.lengths.astype(np.int64)
        if pack:
            packed, shape = self._pack(lengths, Shape(rows, max_length), segments, block)
            self._members, self._starts, self._first, self._whole = packed
            known = shape[2:]
            edges, row_bucket = [max_length], np.zeros(len(self._first) - 1, np.int64)
        else:
            edges = list(buckets) if buckets is not None else default_edges(max_length)
            self._members, self._starts = np.arange(len(lengths)), np.zeros(len(lengths), np.int64)
            self._first, self._whole, known = np.arange(len(lengths) + 1), 0, (0, 0)
            row_bucket = bucket_index(lengths, edges)
        self._segments = segments or int(np.diff(self._first).max(initial=1))
        self._arrays = arrays
        used = np.unique(row_bucket)
        self._bucket_rows = [np.flatnonzero(row_bucket == index) for index in used]
        steps = [-(-len(members) // rows) for members in self._bucket_rows]
        self._step_bucket = np.repeat(np.arange(len(used)), steps)
        self.shapes: list[Shape] = [Shape(rows, int(edges[index]), *known) for index in used]
        self.steps_per_epoch: int = sum(steps)
        self.slots: int = sum(count * shape.slots for count, shape in zip(steps, self.shapes, strict=True))
        self.padding_fraction: float = 1 - lengths.sum() / self.slots if self.slots else 0.0
        self._by_length = np.argsort(lengths, kind="stable")
        self._plan: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None
        self.counted: tuple[np.ndarray, int] | None = (
            None  # what `count_outputs` was given: `output_count`, `parts`
        )

    def count_outputs(self, output_counts: np.ndarray, steps: int, parts: int = 1) -> None:
        """Has `shapes` say how many positions the loss reads at most in the first `steps` batches.

        output_counts: int64 `[N]`, positions in each window. parts: microbatches that a batch is cut into.
        """
        most = np.zeros(len(self.shapes), np.int64)
        epochs = -(-steps // self.steps_per_epoch) if self._shuffle else 1
        for epoch in range(epochs):
            _, window_at, rows, step_bucket = self._epoch(epoch)
            of_row = np.add.reduceat(output_counts[window_at], self._first[:-1])
            of_part = np.where(rows < 0, 0, of_row[rows]).reshape(len(rows), parts, -1).sum(axis=-1)
            np.maximum.at(most, step_bucket, of_part.max(axis=-1))
        most = -(-most // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE
        self.counted = output_counts, parts
        self.shapes = [
            shape._replace(output_count=min(int(count), shape.slots // parts))
            for shape, count in zip(self.shapes, most, strict=True)
        ]

    def set_whole_row_period(self, every: int) -> None:
        """Has only each `every`-th row hold what crosses blocks; it divides the rows, and is at most the one found."""
        self.shapes = [shape._replace(whole_row_period=every) for shape in self.shapes]
        self._plan = None

    def _pack(
        self, lengths: np.ndarray, shape: Shape, segments: int | None, block: int | None
    ) -> tuple[Packed, Shape]:
        """Rows, and what is known of them."""
        if block is None:
            block = choose_block_length(lengths, shape.rows, shape.length, segments)
        packed = pack_rows(lengths, shape._replace(block_length=block), segments)
        if not block:
            return packed, shape
        return packed, shape._replace(
            block_length=block,
            whole_row_period=whole_row_period(packed.whole_rows, len(packed.first) - 1, shape.rows),
        )

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, window at each member `[N]`, rows of each step (-1: none) `[steps, R]`, and its bucket."""
        plan = self._plan  # one read: another thread may be in another epoch
        epoch = epoch if self._shuffle else 0
        if plan is not None and plan[0] == epoch:
            return plan
        windows, orders = self._members, [np.arange(len(rows)) for rows in self._bucket_rows]
        order = np.arange(self.steps_per_epoch)
        every = self.shapes[0].whole_row_period if self.shapes else 0
        # Of rows that aren't in blocks.
        places = np.arange(0, len(orders[0]), every) if every else np.empty(0, np.int64)
        if self._shuffle:
            bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch]))
            shuffled = random_permutation(bits, len(self._lengths))
            swap = np.empty_like(shuffled)
            swap[self._by_length] = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
            windows = swap[self._members]
            orders = [random_permutation(bits, len(rows)) for rows in self._bucket_rows]
            if len(self._bucket_rows) > 1:
                order = random_permutation(bits, len(order))
            places = places[random_permutation(bits, len(places))]
        if every > 1:
            rows = orders[0]
            whole = rows < self._whole
            at_place = np.zeros(len(rows), bool)
            at_place[places[: self._whole]] = True
            orders = [np.empty_like(rows)]
            orders[0][at_place], orders[0][~at_place] = rows[whole], rows[~whole]
        steps = np.full((self.steps_per_epoch, self._rows), -1, np.int64)
        start = 0
        for rows, row_order in zip(self._bucket_rows, orders, strict=True):
            steps[start:].reshape(-1)[: len(rows)] = rows[row_order]
            start += -(-len(rows) // self._rows)
        self._plan = (epoch, windows, steps[order], self._step_bucket[order])
        return self._plan

    def order(self) -> str:
        """A hash of the first epoch's order: which window begins where in which row, which row comes in which step."""
        _, *plan = self._epoch(0)
        hashed = hashlib.sha256()
        for array in (self._first, self._starts, *plan):
            hashed.update(np.ascontiguousarray(array, np.int64))
        return hashed.hexdigest()

    def batch(self, step: int) -> Batch:
        """The batch of any step from 0 on. Raises IndexError where there is none."""
        if step < 0 or self.steps_per_epoch == 0:
            raise IndexError(f"no batch {step}: {self.steps_per_epoch} steps an epoch")
        epoch, index = divmod(step, self.steps_per_epoch)
        _, window_at, steps, step_bucket = self._epoch(epoch)
        shape = self.shapes[step_bucket[index]]
        length = shape.length
        rows = steps[index]
        slots = np.flatnonzero(rows >= 0)
        rows = rows[slots]
        counts = self._first[rows + 1] - self._first[rows]
        members = ragged_arange(self._first[rows], counts)
        row, segment = np.repeat(slots, counts), ragged_arange(0, counts)
        window, start = window_at[members], self._starts[members]
        size = self._lengths[window]
        here = np.flatnonzero(self._place[row] >= 0)
        length_here = size[here]

        built = self._place[row[here]]

        if self.counted:
            each, parts = self.counted
            output_counts = np.bincount(row, each[window], self._rows).reshape(parts, -1).sum(axis=1)
            assert output_counts.max() <= shape.output_count, f"step {step} is beyond those that were counted"

        source = ragged_arange(self._source.offsets[window[here]], length_here)
        position = ragged_arange(0, length_here)
        target = np.repeat(built * length + start[here], length_here) + position

        def fill(values, dtype=np.int32, empty=0) -> np.ndarray:
            flat = np.full(self._built * length, empty, dtype)
            flat[target] = values
            return flat.reshape(self._built, length)

        windows = np.full((self._rows, self._segments), -1, np.int32)
        windows[row, segment] = window
        starts = np.zeros((self._rows, self._segments), np.int32)
        starts[row, segment] = start
        arrays = {
            "input_ids": fill(self._source.input_ids[source], empty=self._pad_id),
            "segment_ids": fill(np.repeat(segment[here] + 1, length_here)),
            "positions": fill(position),
            "token_type_ids": fill(self._source.column("token_type_ids")[source])
            if self._source.has_column("token_type_ids")
            else np.zeros((self._built, length), np.int32),
        }
        for name, spec in self._arrays.items():
            if not spec.of_segment and name.endswith("labels"):
                labels = self._source.column(name)[source]
                labelled = labels >= 0
                arrays[name] = fill(np.where(labelled, labels, 0))
                arrays[name.removesuffix("labels") + "weights"] = fill(labelled, np.float32)
            elif spec.of_segment:
                if name == "starts":
                    values = start
                elif name == "task_weights":
                    own = self._source.column(name)[window]
                    values = np.concatenate([own, np.ones((len(own), 1), np.float32)], axis=1)
                else:
                    values = self._source.column(name)[window]
                arrays[name] = np.zeros(spec.shape_in(self._built, length, self._segments), spec.dtype)
                arrays[name][built, segment[here]] = values[here]
        return Batch(arrays, windows, starts, int(size.sum()), shape)


def random_permutation(bits: np.random.BitGenerator, count: int) -> np.ndarray:
    """A random order; from raw bits, since numpy may change `permutation` from version to version."""
    return np.argsort(bits.random_raw(count), kind="stable")
