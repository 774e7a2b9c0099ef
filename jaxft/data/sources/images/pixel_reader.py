"""Reads the pixels and targets of some examples of a data set: what batches are filled with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.mixing import Mixing
from jaxft.data.sources.images.pixel_cache import PixelCache
from jaxft.data.sources.images.preparation import Preparation
from jaxft.data.sources.images.reading import ImageExample


@dataclass(frozen=True)
class PixelReader:
    """Reads windows: each view of each of N examples, V of them an example, so that window w is of example w // V.

    Attributes:
      examples: the examples, from `checking.check_images`.
      targets: float32 `[N, C]`, the target of each output, such as 0 and 1; zeros without labels.
      preparation: how images are prepared. Without augmentation, the result does not depend on seed and epoch.
      pool: decodes.
      mixing: how images of training are mixed.
      cache: decoded images, by the number of the example; None to decode them whenever they are read.
    """

    examples: Sequence[ImageExample]
    targets: np.ndarray
    preparation: Preparation
    pool: DecodingPool
    mixing: Mixing = Mixing()
    cache: PixelCache | None = None

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self.examples) * self.preparation.view_count

    @property
    def fingerprint(self) -> str:
        """A hash of what is read and how."""
        return hashlib.sha256().hexdigest()

    def slice(self, first: int, end: int) -> "PixelReader":
        """Returns the windows from `first` up to `end`, which begin and end examples. Partners are then of these."""
        raise NotImplementedError

    def read(self, windows: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pixels and targets of windows: a function of (seed, epoch, window), whatever else is read.

        Args:
          windows: int64 `[K]`.
          seed: the seed of the loader.
          epoch: the number of the epoch.

        Returns:
          (pixels, targets): float32 `[K, H, W, 3]`, normalized; float32 `[K, C]`, mixed as the images are.

        Raises:
          UserError: an image cannot be decoded (it was changed after `check_images`).
        """
        raise NotImplementedError
