"""Changes images at random: crops, flips, colours, erased rectangles, as a function of (seed, epoch, example)."""

from dataclasses import dataclass
from typing import NamedTuple


class DrawKey(NamedTuple):
    """Identifies the random numbers of an example in an epoch."""

    seed: int
    epoch: int
    example: int


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
