"""Mixes images and their labels with those of partners: mixup and CutMix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.sources.images.augmentation import Box, DrawKey


@dataclass(frozen=True)
class Mixing:
    """Says how each image of training is mixed with a partner. With both kinds, half of the images get each.

    An image's partner is another example of the data set, or of its shard, a function of (seed, epoch, example) alone.
    It need not be in the batch, so it does not depend on the batch, the mesh or the processes, at the price of decoding
    it too. The partner is mixed in as it is augmented in this epoch.

    Attributes:
      mixup: alpha of mixup's Beta distribution (Zhang et al., 2018); 0 for no mixup.
      cutmix: alpha of CutMix's Beta distribution (Yun et al., 2019); 0 for no CutMix.
      probability: the share of images that are mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __bool__(self) -> bool:
        """Returns whether images are mixed at all."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def find_partner(key: DrawKey, count: int) -> int:
    """Returns the number of another of `count` examples, each with the same probability; of one example, itself."""
    return (key.example + 1 + int(key.draw("partner", 1)[0] * (count - 1))) % count


def draw_mixture(mixing: Mixing, size: tuple[int, int], key: DrawKey) -> tuple[float, Box | None]:
    """Draws how an example is mixed.

    Args:
      mixing: the kinds of mixtures.
      size: the height and width of images.
      key: the key of random numbers.

    Returns:
      (share, box): the example's share of its label, and the rectangle in which its partner replaces it. Without a
      rectangle, the share is also that of its pixels.
    """
    from scipy.special import betaincinv  # takes 0.1 s, which other runs need not wait for

    is_mixed, kind, level, x, y = key.draw("mixture", 5)
    if is_mixed >= mixing.probability:
        return 1.0, None
    is_cut = mixing.cutmix > 0 and (mixing.mixup == 0 or kind < 0.5)
    alpha = mixing.cutmix if is_cut else mixing.mixup
    share = float(betaincinv(alpha, alpha, level))
    if not is_cut:
        return share, None
    height, width = size
    side = math.sqrt(1 - share) / 2
    left, right = (round(min(max(x + sign * side, 0), 1) * width) for sign in (-1, 1))
    top, bottom = (round(min(max(y + sign * side, 0), 1) * height) for sign in (-1, 1))
    return 1 - (right - left) * (bottom - top) / (height * width), Box(left, top, right, bottom)


def mix(
    pixels: np.ndarray,
    targets: np.ndarray,
    other_pixels: np.ndarray,
    other_targets: np.ndarray,
    partners: Sequence[int],
    mixing: Mixing,
    keys: Sequence[DrawKey],
) -> None:
    """Mixes images and their targets with those of partners, in place.

    Args:
      pixels, targets: float32 `[K, H, W, 3]` and `[K, C]`, which are changed.
      other_pixels, other_targets: float32 `[M, H, W, 3]` and `[M, C]`, among which the partners are.
      partners: the place of each partner among them.
      mixing: the kinds of mixtures.
      keys: the key of each example.
    """
    for image, target, partner, key in zip(pixels, targets, partners, keys, strict=True):
        share, box = draw_mixture(mixing, image.shape[:2], key)
        if box is not None:
            region = slice(box.top, box.bottom), slice(box.left, box.right)
            image[region] = other_pixels[partner][region]
        elif share < 1:
            image *= np.float32(share)
            image += np.float32(1 - share) * other_pixels[partner]
        target *= np.float32(share)
        target += np.float32(1 - share) * other_targets[partner]
