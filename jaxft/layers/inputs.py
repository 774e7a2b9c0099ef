"""Holds the arrays that every backbone reads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Inputs(NamedTuple):
    """The arrays of a batch that a backbone reads, int32.

    Attributes:
      input_ids: `[R, L]`, the token ids.
      segment_ids: `[R, L]`, numbered from 1 in each row; 0 at padding. A position attends only to positions of its
        segment.
      positions: `[R, L]`, the index of each token within its segment, from 0.
      token_type_ids: `[R, L]`, 0 or 1, as the tokenizer set them. A backbone without token types ignores them.
      output_positions: `[G, P]`, the positions whose states are read, in each of G groups of R / G consecutive rows:
        numbers from 0 to R / G * L - 1, without repetition. The backbone computes its last layer only there, and
        returns zeros elsewhere. None if all states are read.
    """

    input_ids: jax.Array
    segment_ids: jax.Array
    positions: jax.Array
    token_type_ids: jax.Array
    output_positions: jax.Array | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, jax.Array]) -> "Inputs":
        """Takes these arrays by name from a batch. It may lack `output_positions`."""
        return cls(
            input_ids=batch["input_ids"],
            segment_ids=batch["segment_ids"],
            positions=batch["positions"],
            token_type_ids=batch["token_type_ids"],
            output_positions=batch.get("output_positions"),
        )
