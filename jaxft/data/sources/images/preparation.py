"""Prepares an image for a model, from its file to uint8 pixels of the model's size: what worker processes compute."""

from dataclasses import dataclass

import numpy as np

from jaxft.data.sources.images.augmentation import Augmentation, DrawKey
from jaxft.data.sources.images.decoding import MAX_PIXELS, ImageContent
from jaxft.data.sources.images.processors import ImageProcessor

VIEW_KINDS = ("center", "flip", "crops")  # of test-time averaging


@dataclass(frozen=True)
class Preparation:
    """Says how images are prepared. It is a pure function, which is the same in any process.

    Attributes:
      processor: the model's processor.
      augmentation: how images are changed; None for evaluation.
      views: the views of an image in evaluation: "center" is one as the processor makes it, "flip" that and its mirror
        image, "crops" four corners and the middle, and their mirror images.
      max_pixels: the most pixels of an image.
    """

    processor: ImageProcessor
    augmentation: Augmentation | None = None
    views: str = "center"
    max_pixels: int = MAX_PIXELS

    @property
    def view_count(self) -> int:
        """Number of views of an image: 1, 2 or 10."""
        raise NotImplementedError

    def prepare(
        self, image: ImageContent, place: str, *, view: int = 0, key: DrawKey | None = None
    ) -> np.ndarray:
        """Returns uint8 `[H, W, 3]` of the processor's output size.

        Args:
          image: the image.
          place: its place, for messages.
          view: the number of the view in evaluation.
          key: the key of random numbers in training.

        Raises:
          BrokenImage: the image cannot be decoded.
        """
        raise NotImplementedError
