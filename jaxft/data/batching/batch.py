"""Defines batches, their arrays and their shapes, and the protocol of what serves them."""

from typing import NamedTuple, Protocol

import numpy as np

from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange


class ArraySpec(NamedTuple):
    """The dtype and shape of one array of a batch.

    Attributes:
      dtype: of its values.
      per_segment: whether it has values for each segment, `[R, S, *shape]`; else one for each slot, `[R, L]`.
      shape: of a segment's value.
    """

    dtype: type
    per_segment: bool = False
    shape: tuple[int, ...] = ()

    def shape_in(self, rows: int, length: int, segments: int | None) -> tuple[int, ...]:
        """Returns the shape of the array of a batch."""
        return (rows, segments, *self.shape) if self.per_segment else (rows, length)


INPUTS = dict.fromkeys(("input_ids", "segment_ids", "positions", "token_type_ids"), ArraySpec(np.int32))


# The arrays of tasks that label tokens.
TOKEN_LABELS = INPUTS | {"labels": ArraySpec(np.int32), "weights": ArraySpec(np.float32)}


def segment_labels(dtype: type, shape: tuple[int, ...] = ()) -> dict[str, ArraySpec]:
    """Returns the arrays of tasks that label segments, which they read at `starts`.

    dtype, shape: of a segment's label.
    """
    return INPUTS | {
        "starts": ArraySpec(np.int32, True),
        "labels": ArraySpec(dtype, True, shape),
        "weights": ArraySpec(np.float32, True),
    }


class Shape(NamedTuple):
    """A batch's rows and their length, and what is known of its segments before they are seen.

    Attributes:
      rows: number of rows.
      length: slots of a row.
      block_length: rows are made of blocks of this many slots, and no segment crosses from one to the next, so that
        attention needs no more than `[block_length, block_length]` scores at a time; 0 if rows have no blocks.
      whole_row_period: only each such row, from the first on, may hold segments that do cross; 0 if none may.
      output_count: the loss reads at most this many positions of a batch, or of a microbatch where the batch is cut
        into several; 0 if that is not known.
    """

    rows: int
    length: int
    block_length: int = 0
    whole_row_period: int = 0
    output_count: int = 0

    @property
    def slots(self) -> int:
        """Slots of all rows."""
        return self.rows * self.length


class Batch(NamedTuple):
    """The rows (R) of one step, L slots long, each of up to S segments. A segment is one window.

    Attributes:
      arrays: of all rows, or of those that the loader builds `only`. int32 `[R, L]`: `input_ids`; `segment_ids`, 0
        for padding, else 1, 2.. from the left; `positions`, from 0 in each segment; `token_type_ids`, from the windows
        or 0. If tokens are labelled also int32 `labels`, 0 where there is no loss, and float32 `weights`, 1
        where there is a label, else 0. If segments are labelled: `starts` as below, and the windows' columns
        `labels` and `weights`, `[R, S, ...]`, 0 where there is no segment. Each of several tasks has
        `NAME/labels` and `NAME/weights`, and there are `task_weights`, see `losses.cross_entropy.step_scales`.
      windows: int32 `[R, S]`, which window segment k + 1 is, -1 for none. S is the same for all batches.
      starts: int32 `[R, S]`, the slot where it begins, 0 for none.
      tokens: number of slots that are not padding.
      shape: R and L, and what is known of where segments lie and of how many positions are read.
    """

    arrays: dict[str, np.ndarray]
    windows: np.ndarray
    starts: np.ndarray
    tokens: int
    shape: Shape


class Batches(Protocol):
    """Random access to the batches of any epoch: `batch(step)`, epoch = step // steps_per_epoch.

    An implementation does not change after it is made, and a batch is a pure function of its seed and the step.
    """

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that batches have, by rising length."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, the same for each epoch."""

    @property
    def window_count(self) -> int:
        """Number of windows that batches are made of."""

    @property
    def padding_fraction(self) -> float:
        """The share of an epoch's slots that are padding."""

    def order(self) -> str:
        """Hashes the order of windows, so that a resume finds out if a version of jaxft orders data differently."""

    def batch(self, step: int) -> Batch:
        """Returns the batch of any step from 0 on. Raises IndexError if there is none."""


def word_values(
    batch: Batch, windows: Windows, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks a model's outputs at the tokens that score words.

    Args:
      batch: the batch of the outputs.
      windows: the windows it is made of.
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
