"""Holds encoded windows of text as an Arrow record batch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.encoded import ArraySpec, Placement
from jaxft.data.ragged import offsets_from_lengths, ragged_arange

_COUNTED_WINDOWS = (
    1 << 16
)  # windows whose labels are counted at a time, because a corpus may be larger than memory


@dataclass(frozen=True)
class Windows:
    """Encoded text: a table with a row for each of N windows, in memory or mapped from the cache. Implements `Encoded`.

    All tables have the columns `input_ids` (lists of int32) and `sentence` (int32). If tokens are labelled, `labels`
    and `word` are lists as long as `input_ids`. If windows are labelled, `labels` and `weights` have a value or a
    vector for each window. The properties return columns as flat numpy arrays without a copy. Window w is
    `[offsets[w]:offsets[w + 1]]` of the flat arrays, even if the record batch is a slice of another.
    """

    record_batch: pa.RecordBatch

    def __len__(self) -> int:
        return self.record_batch.num_rows

    def _flat_column(self, name: str) -> np.ndarray:
        return self.record_batch.column(name).values.to_numpy(zero_copy_only=True)

    def column(self, name: str) -> np.ndarray:
        """Returns a column: `[N]` for a value per window, `[N, C]` for C values per window, `[tokens]` for lists."""
        column = self.record_batch.column(name)
        if pa.types.is_fixed_size_list(column.type):
            return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
        if pa.types.is_large_list(column.type):
            return self._flat_column(name)
        return column.to_numpy(zero_copy_only=True)

    def has_column(self, name: str) -> bool:
        """Returns True if the table has a column with this name."""
        return name in self.record_batch.schema.names

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the table's content."""
        digest = hashlib.sha256()
        for array in (self.offsets, *map(self.column, self.record_batch.schema.names)):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def offsets(self) -> np.ndarray:
        """The first token of each window in the flat arrays, and the end of the last window: int64 `[N + 1]`."""
        return self.record_batch.column("input_ids").offsets.to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens in each window, special tokens included: int32 `[N]`."""
        return np.diff(self.offsets).astype(np.int32)

    @cached_property
    def input_ids(self) -> np.ndarray:
        """Token ids, special tokens included: int32 `[tokens]`."""
        return self._flat_column("input_ids")

    @cached_property
    def labels(self) -> np.ndarray:
        """Label ids, -100 at tokens without loss: int32 `[tokens]`."""
        return self._flat_column("labels")

    @cached_property
    def label_counts(self) -> np.ndarray:
        """The number of tokens with a label in each window: int64 `[N]`."""
        counts = np.empty(len(self), np.int64)
        for start in range(0, len(self), _COUNTED_WINDOWS):
            offsets = self.offsets[start : start + _COUNTED_WINDOWS + 1]
            labels_before = offsets_from_lengths(self.labels[offsets[0] : offsets[-1]] >= 0)
            counts[start : start + len(offsets) - 1] = np.diff(labels_before[offsets - offsets[0]])
        return counts

    @cached_property
    def word(self) -> np.ndarray:
        """The index in the sentence of the word that a token scores, -1 for other tokens: int32 `[tokens]`."""
        return self._flat_column("word")

    @cached_property
    def sentence(self) -> np.ndarray:
        """The index of each window's sentence, text or question: int32 `[N]`."""
        return self.record_batch.column("sentence").to_numpy(zero_copy_only=True)

    def slice(self, first: int, end: int) -> "Windows":
        """Returns the windows from `first` up to `end`, without a copy."""
        return replace(self, record_batch=self.record_batch.slice(first, end - first))

    def fill(
        self, placement: Placement, specs: Mapping[str, ArraySpec], *, rows: int, length: int, segments: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch of text by name, with the placed windows; see `batching.batch.Batch`."""
        lengths = placement.lengths
        source = ragged_arange(self.offsets[placement.windows], lengths)
        position = ragged_arange(0, lengths)
        target = np.repeat(placement.rows * length + placement.starts, lengths) + position

        def fill_slots(values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
            flat: np.ndarray = np.zeros(rows * length, dtype)
            flat[target] = values
            return flat.reshape(rows, length)

        arrays = {
            "input_ids": fill_slots(self.input_ids[source]),
            "segment_ids": fill_slots(np.repeat(placement.segments + 1, lengths)),
            "positions": fill_slots(position),
            "token_type_ids": fill_slots(self.column("token_type_ids")[source])
            if self.has_column("token_type_ids")
            else np.zeros((rows, length), np.int32),
        }
        for name, spec in specs.items():
            if spec.per == "segment":
                arrays[name] = np.zeros(spec.shape_in(rows, length, segments), spec.dtype)
                arrays[name][placement.rows, placement.segments] = self._segment_values(placement, name)
            elif name.endswith("labels"):
                labels = self.column(name)[source]
                is_labelled = labels >= 0
                arrays[name] = fill_slots(np.where(is_labelled, labels, 0))
                arrays[name.removesuffix("labels") + "weights"] = fill_slots(is_labelled, np.float32)
        return arrays

    def _segment_values(self, placement: Placement, name: str) -> np.ndarray:
        """Returns the values of a per-segment array for the placed windows, `[K, ...]`."""
        if name == "starts":
            return placement.starts
        values = self.column(name)[placement.windows]
        if name == "task_weights":  # append 1 for each window, so that the sum counts windows
            return np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)
        return values


def add_prompt(windows: Windows, count: int) -> Windows:
    """Returns the windows with `count` slots before each of them, for a prompt: their ids are -1, -2, ..., -`count`.

    These slots have no labels and no words. Labels of windows that are places in them move, but not 0 and 0, which
    stand for no place.
    """
    offsets = offsets_from_lengths(windows.lengths + count)
    to_prompts = ragged_arange(offsets[:-1], np.full(len(windows), count))
    to_tokens = ragged_arange(offsets[:-1] + count, windows.lengths)
    columns: dict[str, pa.Array] = {}
    for name in windows.record_batch.schema.names:
        column, values = windows.record_batch.column(name), windows.column(name)
        if pa.types.is_large_list(column.type):
            filled = np.full(offsets[-1], 0 if name == "token_type_ids" else -1, values.dtype)
            filled[to_tokens] = values[windows.offsets[0] : windows.offsets[-1]]
            if name == "input_ids":
                filled[to_prompts] = np.tile(-1 - np.arange(count), len(windows))
            column = pa.LargeListArray.from_arrays(offsets, pa.array(filled))
        elif name == "labels" and windows.has_column("char_start"):
            moved = np.where(values.any(axis=1, keepdims=True), values + count, values)
            column = pa.FixedSizeListArray.from_arrays(pa.array(moved.ravel()), column.type.list_size)
        columns[name] = column
    return Windows(pa.RecordBatch.from_pydict(columns))


def join_windows(tables: Sequence[Windows]) -> Windows:
    """Returns the windows of several tables, in order, as one table in memory."""
    return Windows(pa.concat_batches([windows.record_batch for windows in tables]))
