"""Defines batches, their arrays and shapes, and the protocol of loaders."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypedDict

import numpy as np

from jaxft.data.encoding.encoded import ArraySpec
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange

INPUTS = dict.fromkeys(("input_ids", "segment_ids", "positions", "token_type_ids"), ArraySpec(np.int32))


# The arrays of tasks that label tokens.
TOKEN_LABELS = INPUTS | {"labels": ArraySpec(np.int32), "weights": ArraySpec(np.float32)}


class LoaderOptions(TypedDict):
    """Arguments of `choice.make_loader`."""

    arrays: Mapping[str, ArraySpec]
    max_segments: int | None


class BatchSpec(NamedTuple):
    """The arrays of a task's batches.

    Attributes:
      arrays: the dtype and shape of each array, by name.
      max_segments: the most segments in a row if labels belong to segments; None if labels belong to tokens.
      row_length: number of slots in a row; None for `config.data.max_length`.
      unit: what a slot holds, in the singular: what the log counts.
      unit_mask: the array that is above 0 where a slot holds something, and 0 elsewhere.
      labelled_share: the share of slots that the loss reads, where it is known without data.
    """

    arrays: Mapping[str, ArraySpec]
    max_segments: int | None = None
    row_length: int | None = None
    unit: str = "token"
    unit_mask: str = "segment_ids"
    labelled_share: float = 1.0

    def loader_options(self) -> LoaderOptions:
        """Returns the arguments of `choice.make_loader` that follow from this."""
        return LoaderOptions(arrays=self.arrays, max_segments=self.max_segments)


def segment_labels(dtype: type, shape: tuple[int, ...] = ()) -> dict[str, ArraySpec]:
    """Returns the arrays of tasks that label segments. These tasks read the outputs at `starts`.

    Args:
      dtype: the dtype of a segment's label.
      shape: the shape of a segment's label.
    """
    return INPUTS | {
        "starts": ArraySpec(np.int32, "segment"),
        "labels": ArraySpec(dtype, "segment", shape),
        "weights": ArraySpec(np.float32, "segment"),
    }


class Blocks(NamedTuple):
    """Says where segments may lie in rows. Packing makes it and attention reads it; what is between only passes it on.

    Attributes:
      length: number of slots in a block. No segment crosses from one block into the next, so attention needs only
        `[length, length]` scores at a time. 0 if rows have no blocks.
      whole_row_period: row 0 and every `whole_row_period`-th row after it may hold segments that cross blocks; 0 if no
        row may.
    """

    length: int = 0
    whole_row_period: int = 0

    def __bool__(self) -> bool:
        """Returns whether rows have blocks."""
        return self.length > 0


class Shape(NamedTuple):
    """The shape of a batch, and limits that hold for all its segments.

    Attributes:
      rows: number of rows.
      length: number of slots in a row.
      blocks: the blocks of its rows.
      output_shape: [G, P] of the array `output_positions`; zeros if the batch has none.
    """

    rows: int
    length: int
    blocks: Blocks = Blocks()
    output_shape: tuple[int, int] = (0, 0)

    @property
    def slots(self) -> int:
        """Number of slots in all rows."""
        return self.rows * self.length

    def with_whole_row_period(self, period: int) -> "Shape":
        """Returns this shape with another period of rows that may hold segments that cross blocks."""
        return self._replace(blocks=self.blocks._replace(whole_row_period=period))


class Batch(NamedTuple):
    """The R rows of one step. A row has L slots and up to S segments, each of which is one window.

    The arrays cover all rows, or only the rows of the loader's `only`:

    - With text, int32 `[R, L]`: `input_ids`; `segment_ids`, 1, 2, ... from the left; `positions`, from 0 in each
      segment; `token_type_ids`, from the windows or 0. All are 0 at padding, which nothing reads.
    - If tokens are labelled, `[R, L]`: int32 `labels`, 0 without loss; float32 `weights`, 1 at labels and 0 elsewhere.
    - If segments are labelled: `starts` as below; the windows' columns `labels` and `weights`, `[R, S, ...]`, 0 without
      a segment.
    - If the last layer computes only some positions: `output_positions`, int32 `[G, P]`, those of each group of R / G
      consecutive rows. They are indices in the group's R / G * L slots, without repetition: first those that the loss
      reads, then others. The rows of a microbatch on a device are a group.
    - With several tasks: `NAME/labels` and `NAME/weights` for each task, and `task_weights`; see
      `losses.cross_entropy.step_scales`.

    Attributes:
      arrays: the arrays by name.
      windows: int32 `[R, S]`, the window of segment k + 1 at index k; -1 for no segment. All batches have the same S.
      starts: int32 `[R, S]`, the slot where each segment begins; 0 for no segment.
      units: number of slots that are not padding.
      shape: R, L and the limits of segments and outputs.
    """

    arrays: dict[str, np.ndarray]
    windows: np.ndarray
    starts: np.ndarray
    units: int
    shape: Shape


class Batches(Protocol):
    """Random access to batches by step. The epoch of a step is `step // steps_per_epoch`.

    An implementation is immutable. A batch is a pure function of the seed and the step.
    """

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of batches, shortest rows first."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, the same for each epoch."""

    @property
    def window_count(self) -> int:
        """Number of windows in the data."""

    @property
    def padding_fraction(self) -> float:
        """The fraction of an epoch's slots that is padding."""

    def order(self) -> str:
        """Hashes the order of windows. A resumed run compares it, since other versions may order data differently."""

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0. Raises IndexError if there is no such step."""


def word_values(
    batch: Batch, windows: Windows, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks a model's outputs at the tokens that score words.

    Args:
      batch: the batch.
      windows: the windows of the loader.
      values: `[R, L, ...]`, for instance predicted label ids or probabilities.

    Returns:
      (sentence, word in the sentence, value): int32 `[K]`, int32 `[K]` and `[K, ...]`. In one epoch, each word of each
      encoded sentence comes exactly once; the order is not defined.
    """
    row, segment = np.nonzero(batch.windows >= 0)
    window = batch.windows[row, segment]
    size = windows.lengths[window]
    word = windows.word[ragged_arange(windows.offsets[window], size)]
    place = ragged_arange(row * values.shape[1] + batch.starts[row, segment], size)
    scored = word >= 0
    flat = values.reshape(-1, *values.shape[2:])
    return np.repeat(windows.sentence[window], size)[scored], word[scored], flat[place[scored]]
