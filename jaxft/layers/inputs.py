"""Holds the token arrays that every backbone reads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Inputs(NamedTuple):
    """The arrays of a batch that a backbone reads, all int32 `[R, L]`.

    Attributes:
      input_ids: the token ids.
      segment_ids: numbered from 1 in each row; 0 at padding. A position attends only to positions of its segment.
      positions: the index of each token within its segment, from 0.
      token_type_ids: 0 or 1, as the tokenizer set them. A backbone without token types ignores them.
    """

    input_ids: jax.Array
    segment_ids: jax.Array
    positions: jax.Array
    token_type_ids: jax.Array

    @classmethod
    def from_batch(cls, batch: Mapping[str, jax.Array]) -> "Inputs":
        """Takes these arrays by name from a batch."""
        return cls(*(batch[name] for name in cls._fields))
