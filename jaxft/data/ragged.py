"""Index arithmetic for ragged arrays."""

import numpy as np


def ragged_arange(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + length)` over all pairs: int64 `[sum(lengths)]`.

    `starts` is `[N]` or a scalar, `lengths` is `[N]`, not negative.
    """
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts, np.int64) - (ends - lengths), lengths) + np.arange(total)


def offsets_from_lengths(lengths: np.ndarray) -> np.ndarray:
    """Where each of N ragged pieces begins in their concatenation, and the last ends: int64 `[N + 1]`."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
