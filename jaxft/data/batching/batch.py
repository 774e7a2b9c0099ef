"""Defines batches, their arrays and their shapes."""

from typing import NamedTuple

import numpy as np

from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange


class ArraySpec(NamedTuple):
    """What one array of a batch is: `[R, L]`, a value a slot, or `[R, S, *shape]`, a value or more a segment."""

    dtype: type
    of_segment: bool = False
    shape: tuple[int, ...] = ()

    def shape_in(self, rows: int, length: int, segments: int | None) -> tuple[int, ...]:
        """Of the whole array."""
        return (rows, segments, *self.shape) if self.of_segment else (rows, length)


INPUTS = dict.fromkeys(("input_ids", "segment_ids", "positions", "token_type_ids"), ArraySpec(np.int32))


# Of tasks that label tokens, and of tasks that label segments, which read them at `starts`.
TOKEN_LABELS = INPUTS | {"labels": ArraySpec(np.int32), "weights": ArraySpec(np.float32)}


def segment_labels(dtype: type, shape: tuple[int, ...] = ()) -> dict[str, ArraySpec]:
    """The arrays of a batch whose segments have labels of `dtype`, each of `shape`."""
    return INPUTS | {
        "starts": ArraySpec(np.int32, True),
        "labels": ArraySpec(dtype, True, shape),
        "weights": ArraySpec(np.float32, True),
    }


class Shape(NamedTuple):
    """A batch's rows and their length, and what is known of their segments before they are seen.

    Only each `every`-th row, from the first on, may hold segments that cross a multiple of `block` slots (0: none
    does); in the others attention needs no more than `[block, block]` scores at a time. `block` is 0 where nothing
    is known. At most `output_count` positions of a batch (of a microbatch, where it is cut into some) are read by the loss;
    0 where that is not known.
    """

    rows: int
    length: int
    block_length: int = 0
    whole_row_period: int = 0
    output_count: int = 0

    @property
    def slots(self) -> int:
        """Of all rows."""
        return self.rows * self.length


class Batch(NamedTuple):
    """One step's rows (R), L slots long, each of up to S segments; a segment is one window.

    Attributes:
      arrays: of all rows, or of those that the loader builds `only`. int32 `[R, L]`: `input_ids`; `segment_ids`, 0
        for padding, else 1, 2.. from the left; `positions`, from 0 in each segment; `token_type_ids`, the windows'
        own or 0. Where tokens are labelled also int32 `labels`, 0 where there is no loss, and float32 `weights`, 1
        where there is a label, else 0. Where segments are labelled: `starts` as below, and the windows' columns
        `labels` and `weights`, `[R, S, ...]`, 0 where there is no segment. Of several tasks each has its own,
        `NAME/labels` and `NAME/weights`, and there are `task_weights`, see `losses.step_scales`.
      windows: int32 `[R, S]`, which window segment k + 1 is, -1 for none. S is the same for all batches.
      starts: int32 `[R, S]`, the slot where it begins, 0 for none.
      tokens: how many slots are not padding.
      shape: R and L, and what is known of where segments lie and of how many positions are read.
    """

    arrays: dict[str, np.ndarray]
    windows: np.ndarray
    starts: np.ndarray
    tokens: int
    shape: Shape


def word_values(
    batch: Batch, windows: Windows, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks what a model said at the tokens that score words.

    Args:
      values: `[R, L, ...]`, for instance predicted label ids or probabilities.

    Returns:
      sentence `[K]` int32, word in the sentence `[K]` int32, value `[K, ...]`. Over the steps of one epoch
      each word of each encoded sentence comes exactly once, in no certain order.
    """
    row, segment = np.nonzero(batch.windows >= 0)
    window = batch.windows[row, segment]
    size = windows.lengths[window]
    word = windows.word[ragged_arange(windows.offsets[window], size)]
    place = ragged_arange(row * values.shape[1] + batch.starts[row, segment], size)
    scored = word >= 0
    flat = values.reshape(-1, *values.shape[2:])
    return np.repeat(windows.sentence[window], size)[scored], word[scored], flat[place[scored]]
