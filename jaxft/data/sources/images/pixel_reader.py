"""Reads the pixels and targets of some examples of a data set: what batches are filled with."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxft.data.sources.images.augmentation import DrawKey, choose_erased
from jaxft.data.sources.images.decoding import BrokenImage
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest
from jaxft.data.sources.images.mixing import Mixing, find_partner, mix
from jaxft.data.sources.images.pixel_cache import PixelCache
from jaxft.data.sources.images.preparation import Preparation
from jaxft.data.sources.images.reading import ImageExample
from jaxft.errors import UserError


@dataclass(frozen=True)
class PixelReader:
    """Reads windows: each view of each of N examples, V of them an example, so that window w is of example w // V.

    Attributes:
      examples: the examples.
      targets: float32 `[N, C]`, the target of each output, such as 0 and 1; zeros without labels. Or int32 `[N]`, the
        number of the output whose target is 1.
      preparation: how images are prepared. Without augmentation, the result does not depend on seed and epoch.
      pool: decodes.
      mixing: how images of training are mixed. It has no effect without augmentation.
      cache: decoded images, by the number of the example; None to decode them whenever they are read.
      window_range: the windows of this reader; None for all.
      outputs: C.
    """

    examples: Sequence[ImageExample]
    targets: np.ndarray
    preparation: Preparation
    pool: DecodingPool
    mixing: Mixing = Mixing()
    cache: PixelCache | None = None
    window_range: range | None = None
    outputs: int = 1

    @property
    def _windows(self) -> range:
        if self.window_range is not None:
            return self.window_range
        return range(len(self.examples) * self.preparation.view_count)

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self._windows)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of all images."""
        return self.preparation.processor.output_size

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what is read and how. Examples that are not checked count by their origin."""
        preparation = dataclasses.replace(self.preparation, max_pixels=0)  # the limit changes no image
        digest = hashlib.sha256(
            f"{preparation.to_json()} {self.mixing} {self._windows} {self.outputs}".encode()
        )
        for example in self.examples:
            digest.update((example.digest or example.origin).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()

    def slice(self, first: int, end: int) -> "PixelReader":
        """Returns the windows from `first` up to `end`, without a copy. Partners are still of all examples."""
        return dataclasses.replace(self, window_range=self._windows[first:end])

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
        numbers, views = np.divmod(windows + self._windows.start, self.preparation.view_count)
        if not self.mixing or self.preparation.augmentation is None:
            return self._read(numbers.tolist(), views.tolist(), seed, epoch), self._read_targets(numbers)
        keys = [DrawKey(seed, epoch, number) for number in numbers.tolist()]
        partners = [find_partner(key, len(self.examples)) for key in keys]
        needed, places = np.unique([*numbers, *partners], return_inverse=True)
        pixels = self._read(needed.tolist(), [0] * len(needed), seed, epoch)
        places_of_own, places_of_partners = np.split(places, 2)
        mixed = pixels[places_of_own], self._read_targets(numbers)
        mix(*mixed, pixels, self._read_targets(needed), places_of_partners.tolist(), self.mixing, keys)
        return mixed

    def find_numbers(self, windows: np.ndarray) -> np.ndarray:
        """Returns the number of the example of each window, both int `[K]`."""
        return (windows + self._windows.start) // self.preparation.view_count

    def _read_targets(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the targets of examples, a new array, float32 `[K, C]`."""
        targets = self.targets[numbers]
        if targets.ndim == 2:
            return targets
        rows: np.ndarray = np.zeros((len(numbers), self.outputs), np.float32)
        rows[np.arange(len(numbers)), targets] = 1
        return rows

    def _read(self, numbers: list[int], views: list[int], seed: int, epoch: int) -> np.ndarray:
        """Returns the views of examples before they are mixed, float32 `[K, H, W, 3]`."""
        is_augmented = self.preparation.augmentation is not None
        requests = []
        for number, view in zip(numbers, views, strict=True):
            example = self.examples[number]
            pixels = None if self.cache is None else self.cache.read(number)
            key = DrawKey(seed, epoch, number) if is_augmented else None
            requests.append(
                ImageRequest(example.image if pixels is None else pixels, example.origin, view, key)
            )
        arrays: np.ndarray = np.empty((len(requests), *self.image_size, 3), np.float32)

        def finish(index: int, pixels: np.ndarray) -> None:
            arrays[index] = self.preparation.processor.normalize(pixels)
            augmentation, key = self.preparation.augmentation, requests[index].key
            if augmentation is not None and key is not None:
                if (box := choose_erased(augmentation, self.image_size, key)) is not None:
                    arrays[index, box.top : box.bottom, box.left : box.right] = 0

        results = self.pool.prepare(self.preparation, requests, finish)
        if broken := [result for result in results if isinstance(result, BrokenImage)]:
            others = f" (and {len(broken) - 1} more in this batch)" if len(broken) > 1 else ""
            raise UserError(f"{broken[0]}{others}")
        return arrays
