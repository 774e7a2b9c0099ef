"""Holds encoded windows as an Arrow record batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from jaxft.data.ragged import offsets_from_lengths


@dataclass(frozen=True)
class Windows:
    """Encoded text, one window a row of an Arrow record batch (in memory, or mapped from the cache).

    Columns: `input_ids` (a list of int32) and `sentence` (int32) always. Where tokens are labelled, `labels` and
    `word` (lists of the same length); where windows are, `labels` and `weights` (a value or vector a window).
    The properties show them as flat numpy arrays without a copy; window w is `[offsets[w]:offsets[w + 1]]`, also where
    the rows are a slice of others.
    """

    record_batch: pa.RecordBatch

    def __len__(self) -> int:
        return self.record_batch.num_rows

    def _flat(self, column: str) -> np.ndarray:
        return self.record_batch.column(column).values.to_numpy(zero_copy_only=True)

    def column(self, name: str) -> np.ndarray:
        """A column that only some encodings have: of one value a window `[N]`, of C `[N, C]`, of tokens `[tokens]`."""
        column = self.record_batch.column(name)
        if pa.types.is_fixed_size_list(column.type):
            return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
        if pa.types.is_large_list(column.type):
            return self._flat(name)
        return column.to_numpy(zero_copy_only=True)

    def has_column(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.record_batch.schema.names

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that they hold."""
        data = hashlib.sha256()
        for array in (self.offsets, *map(self.column, self.record_batch.schema.names)):
            data.update(np.ascontiguousarray(array))
        return data.hexdigest()

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each window begins in the flat arrays: int64 `[N + 1]`."""
        return self.record_batch.column("input_ids").offsets.to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Subwords in each window, special tokens included: int32 `[N]`."""
        return np.diff(self.offsets).astype(np.int32)

    @cached_property
    def input_ids(self) -> np.ndarray:
        """Token ids, special tokens included: int32 `[tokens]`."""
        return self._flat("input_ids")

    @cached_property
    def labels(self) -> np.ndarray:
        """Label ids, -100 where there is no loss: int32 `[tokens]`."""
        return self._flat("labels")

    @cached_property
    def label_counts(self) -> np.ndarray:
        """How many tokens of each window have a label: int64 `[N]`."""
        found = np.empty(len(self), np.int64)
        for first in range(0, len(self), 1 << 16):  # a corpus may be larger than memory
            offsets = self.offsets[first : first + (1 << 16) + 1]
            before = offsets_from_lengths(self.labels[offsets[0] : offsets[-1]] >= 0)
            found[first : first + len(offsets) - 1] = np.diff(before[offsets - offsets[0]])
        return found

    @cached_property
    def word(self) -> np.ndarray:
        """At the token that scores a word, the word's index in its sentence, else -1: int32 `[tokens]`."""
        return self._flat("word")

    @cached_property
    def sentence(self) -> np.ndarray:
        """The index of each window's sentence among those encoded: int32 `[N]`."""
        return self.record_batch.column("sentence").to_numpy(zero_copy_only=True)


def join_windows(tables: Sequence[Windows]) -> Windows:
    """The windows of `parts`, one after the other, in memory."""
    return Windows(pa.concat_batches([part.record_batch for part in tables]))
