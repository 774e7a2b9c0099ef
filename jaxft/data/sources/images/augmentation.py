"""Changes images at random: crops, flips, colours, erased rectangles, as a function of (seed, epoch, example)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxft.data.sources.images.processors import resize_image

_WORD = (1 << 64) - 1
_TRIES = 10  # to find a rectangle that lies in the image
_ERASED_SHARE, _ERASED_RATIO = (0.02, 1 / 3), 1 / 0.3  # of the area; of the sides, at most


class DrawKey(NamedTuple):
    """Identifies the random numbers of an example in an epoch."""

    seed: int
    epoch: int
    example: int

    def draw(self, purpose: str, count: int) -> list[float]:
        """Returns `count` numbers in [0, 1), the same ones whenever they are drawn for this purpose.

        They are Philox's (Salmon et al., 2011) of a counter, so that other draws do not change them. The raw bits are
        used, because numpy may change its distributions between versions.
        """
        word = int.from_bytes(purpose.encode()[:8].ljust(8), "little")
        key: np.ndarray = np.array([self.seed & _WORD, self.epoch & _WORD], np.uint64)
        counter: np.ndarray = np.array([0, word, self.example & _WORD, 0], np.uint64)
        bits = np.random.Philox(key=key, counter=counter).random_raw(count)
        return ((bits >> np.uint64(11)) * 2.0**-53).tolist()


@dataclass(frozen=True)
class Augmentation:
    """Says how images of training are changed. The defaults change nothing.

    Attributes:
      crop_scale: the least share of an image's area that a random resized crop keeps, such as 0.08; None for the
        processor's own resizing and crop.
      crop_ratio: the greatest ratio of the longer to the shorter side of a random crop.
      flip: the probability of a horizontal flip.
      brightness, contrast, saturation, hue: the strengths of colour jitter, in torchvision's units.
      rand_augment: number of operations of RandAugment (Cubuk et al., 2020); 0 for none.
      rand_augment_magnitude: their magnitude, 0 to 30.
      erasing: the probability of an erased rectangle (Zhong et al., 2017), which gets the value 0 after normalization.
    """

    crop_scale: float | None = None
    crop_ratio: float = 4 / 3
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    rand_augment: int = 0
    rand_augment_magnitude: int = 9
    erasing: float = 0.0


class Box(NamedTuple):
    """A rectangle of pixels, as Pillow writes it: `right` and `bottom` are outside."""

    left: int
    top: int
    right: int
    bottom: int


def crop_and_resize(
    image: np.ndarray, size: tuple[int, int], resample: int, augmentation: Augmentation, key: DrawKey
) -> np.ndarray:
    """Returns a random resized crop of an image, uint8 `[H, W, 3]` to `[*size, 3]` (Szegedy et al., 2015).

    As torchvision's `RandomResizedCrop`, it takes the largest crop of the middle if no other fits.
    """
    height, width = image.shape[:2]
    assert augmentation.crop_scale is not None  # the caller asks before
    shares = (augmentation.crop_scale, 1.0)
    box = _draw_box(height, width, shares, augmentation.crop_ratio, key, "crop")
    if box is None:
        ratio = min(max(width / height, 1 / augmentation.crop_ratio), augmentation.crop_ratio)
        crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        box = Box(left, top, left + max(crop_width, 1), top + max(crop_height, 1))
    return resize_image(image, size, resample, box)


def is_flipped(augmentation: Augmentation, key: DrawKey) -> bool:
    """Returns whether an image is flipped."""
    return augmentation.flip > 0 and key.draw("flip", 1)[0] < augmentation.flip


def choose_erased(augmentation: Augmentation, size: tuple[int, int], key: DrawKey) -> Box | None:
    """Returns the rectangle that is erased in an image of a height and width; None for none."""
    if not augmentation.erasing or key.draw("erase", 1)[0] >= augmentation.erasing:
        return None
    return _draw_box(*size, _ERASED_SHARE, _ERASED_RATIO, key, "erasebox")


def _draw_box(
    height: int, width: int, shares: tuple[float, float], most_ratio: float, key: DrawKey, purpose: str
) -> Box | None:
    """Draws a rectangle in an image: a share of its area, a ratio of sides and a place; None if none fits.

    Args:
      height, width: the size of the image.
      shares: the least and greatest share of the area, drawn uniformly.
      most_ratio: the greatest ratio of sides, in either direction. Its logarithm is drawn uniformly.
      key: the key of random numbers.
      purpose: their purpose.
    """
    numbers = iter(key.draw(purpose, 4 * _TRIES))
    for share, ratio, left, top in zip(*[numbers] * 4, strict=True):
        area = height * width * (shares[0] + (shares[1] - shares[0]) * share)
        sides_ratio = math.exp((2 * ratio - 1) * math.log(most_ratio))
        box_width, box_height = round(math.sqrt(area * sides_ratio)), round(math.sqrt(area / sides_ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            x, y = int(left * (width - box_width + 1)), int(top * (height - box_height + 1))
            return Box(x, y, x + box_width, y + box_height)
    return None
