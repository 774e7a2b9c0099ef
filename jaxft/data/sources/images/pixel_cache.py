"""Keeps decoded and resized images in a file that is either complete or absent."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.reading import ImageExample


class PixelCache:
    """Decoded images in a mapped file. Each image is compared with its checksum whenever it is read."""

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, number: int) -> np.ndarray | None:
        """Returns an image, uint8 `[H, W, 3]`, without a copy; None if it is damaged."""
        raise NotImplementedError


def load_or_decode(
    folder: Path | None,
    examples: Sequence[ImageExample],
    pool: DecodingPool,
    *,
    shortest_edge: int,
    max_pixels: int,
) -> PixelCache | None:
    """Returns the cache of these examples; decodes them into a file if there is none. None if it cannot be written.

    Args:
      folder: the folder of caches.
      examples: checked examples, see `checking.check_images`.
      pool: decodes the images.
      shortest_edge: what larger images are resized to, in pixels.
      max_pixels: the most pixels of an image.
    """
    raise NotImplementedError
