"""Computes indices into ragged arrays."""

import numpy as np


def ragged_arange(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + length)` over all pairs of a start and a length.

    Args:
      starts: `[N]` or a scalar.
      lengths: `[N]`, each at least 0.

    Returns:
      int64 `[sum(lengths)]`.
    """
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts, np.int64) - (ends - lengths), lengths) + np.arange(total)


def offsets_from_lengths(lengths: np.ndarray) -> np.ndarray:
    """Returns the offset of each of N pieces in their concatenation, followed by the total length: int64 `[N + 1]`."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
