"""Fills batches with images and their targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxft.data.encoding.encoded import ArraySpec, Placement
from jaxft.data.sources.images.pixel_reader import PixelReader


@dataclass(frozen=True)
class ImageWindows:
    """The views of images, which are decoded when a batch is filled. Implements `Encoded`.

    Attributes:
      reader: reads the pixels and targets of V views of each of N images.
      known: bool `[N]`, True for images with a label that the model has.
    """

    reader: PixelReader
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.reader)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Ones, int32 `[N * V]`: each view takes a row of one slot."""
        return np.ones(len(self), np.int32)

    @property
    def fingerprint(self) -> str:
        """A hash of the images and their targets."""
        return self.reader.fingerprint

    def find_examples(self, windows: np.ndarray) -> np.ndarray:
        """Returns the number of the image of each window, both int `[K]`."""
        return windows // self.reader.preparation.view_count

    def slice(self, first: int, end: int) -> "ImageWindows":
        """Returns the windows from `first` up to `end`, without a copy."""
        return ImageWindows(self.reader.slice(first, end), self.known)

    def fill(
        self, placement: Placement, specs: Mapping[str, ArraySpec], *, rows: int, length: int, segments: int
    ) -> dict[str, np.ndarray]:
        """Returns `pixels`, `labels` and `weights`, as their `specs` say; rows without an image are 0."""
        filled: dict[str, np.ndarray] = {
            name: np.zeros((rows, *spec.shape), spec.dtype) for name, spec in specs.items()
        }
        if len(placement.windows):
            pixels, targets = self.reader.read(placement.windows, seed=placement.seed, epoch=placement.epoch)
            filled["pixels"][placement.rows] = pixels
            filled["labels"][placement.rows] = targets.reshape(-1, *specs["labels"].shape)
            filled["weights"][placement.rows] = self.known[self.reader.find_numbers(placement.windows)]
        return filled
