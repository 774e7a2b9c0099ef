"""Computes indices into ragged arrays, and copies between them."""

import numpy as np
from numpy.typing import ArrayLike

# Values that `copy_ragged` copies at a time, because the indices take four times their memory.
_COPIED = 1 << 18


def ragged_arange(starts: ArrayLike, lengths: ArrayLike) -> np.ndarray:
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


def offsets_from_lengths(lengths: ArrayLike) -> np.ndarray:
    """Returns the offset of each of N pieces in their concatenation, followed by the total length: int64 `[N + 1]`."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def copy_ragged(
    source: np.ndarray,
    source_starts: np.ndarray,
    target: np.ndarray,
    target_starts: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """Copies N pieces of `source` into `target`. The starts and lengths of the pieces are `[N]`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    first = copied = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, copied + _COPIED, side="right")), first + 1)
        pieces = slice(first, last)
        places = ragged_arange(target_starts[pieces], lengths[pieces])
        target[places] = source[ragged_arange(source_starts[pieces], lengths[pieces])]
        first, copied = last, int(ends[last - 1])
