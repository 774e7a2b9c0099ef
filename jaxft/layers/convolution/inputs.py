"""Holds the arrays that every backbone of pictures reads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

CHANNELS = 3  # of a picture


class ImageInputs(NamedTuple):
    """The arrays of a batch that a backbone of pictures reads, float32. Each row is a picture.

    Attributes:
      pixels: `[R, H, W, 3]`, resized and normalized.
      row_weights: `[R]`, 0 for rows that hold no picture. They do not count in the statistics of a batch.
    """

    pixels: jax.Array
    row_weights: jax.Array

    @classmethod
    def from_batch(cls, batch: Mapping[str, jax.Array]) -> "ImageInputs":
        """Takes `pixels` and `weights` from a batch."""
        return cls(batch["pixels"], batch["weights"])
