"""Holds the arrays that every backbone of images reads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

CHANNELS = 3  # of an image


class ImageInputs(NamedTuple):
    """The arrays of a batch that a backbone of images reads, float32. Each row is an image.

    Attributes:
      pixels: `[R, H, W, 3]`, resized and normalized.
      row_weights: `[R]`, 0 for rows that hold no image. They do not count in the statistics of a batch.
    """

    pixels: jax.Array
    row_weights: jax.Array

    @classmethod
    def from_batch(cls, batch: Mapping[str, jax.Array]) -> "ImageInputs":
        """Takes `pixels` and `weights` from a batch."""
        return cls(batch["pixels"], batch["weights"])
