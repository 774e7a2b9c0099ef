"""Changes the colours and the geometry of images: colour jitter, and the operations of RandAugment.

Both follow torchvision's transforms of PIL images, with its units of strength and magnitude, but draw other numbers.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxft.data.sources.images.augmentation import Augmentation, DrawKey

_BINS = 31  # of magnitudes
_NEAREST, _AFFINE = Image.Resampling.NEAREST, Image.Transform.AFFINE


def jitter_colours(image: Image.Image, augmentation: Augmentation, key: DrawKey) -> Image.Image:
    """Changes brightness, contrast, saturation and hue of an RGB image, in a random order.

    The first three are multiplied by a factor in [1 - strength, 1 + strength], at least 0; the hue is turned by a share
    of the circle in [-strength, strength].
    """
    numbers = key.draw("jitter", 8)
    changes: list[tuple[float, Callable[[Image.Image, float], Image.Image]]] = [
        (augmentation.brightness, lambda image, number: ImageEnhance.Brightness(image).enhance(1 + number)),
        (augmentation.contrast, lambda image, number: ImageEnhance.Contrast(image).enhance(1 + number)),
        (augmentation.saturation, lambda image, number: ImageEnhance.Color(image).enhance(1 + number)),
        (augmentation.hue, _turn_hue),
    ]
    for index in sorted(range(4), key=lambda index: numbers[4 + index]):
        strength, change = changes[index]
        if strength:
            lowest = -strength if change is _turn_hue else max(-strength, -1.0)
            image = change(image, lowest + (strength - lowest) * numbers[index])
    return image


def _turn_hue(image: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(share * 255) % 256)  # wraps around
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def apply_rand_augment(image: Image.Image, augmentation: Augmentation, key: DrawKey) -> Image.Image:
    """Applies operations that are drawn from fourteen, of one a magnitude, to an RGB image (Cubuk et al., 2020)."""
    numbers = key.draw("randaug", 2 * augmentation.rand_augment)
    for which, sign in zip(numbers[::2], numbers[1::2], strict=True):
        operation = _OPERATIONS[int(which * len(_OPERATIONS))]
        strength = augmentation.rand_augment_magnitude / (_BINS - 1)
        image = operation(image, -strength if sign < 0.5 else strength)
    return image


def _shear(image: Image.Image, x: float = 0.0, y: float = 0.0) -> Image.Image:
    """Shears an image around its upper left corner, as torchvision's RandAugment does."""
    return image.transform(image.size, _AFFINE, (1, x, 0, y, 1, 0), _NEAREST)


def _translate(image: Image.Image, x: float = 0.0, y: float = 0.0) -> Image.Image:
    """Moves an image by shares of its sides."""
    offset = int(x * image.width), int(y * image.height)
    return image.transform(image.size, _AFFINE, (1, 0, -offset[0], 0, 1, -offset[1]), _NEAREST)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


def _solarize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, round(255 * (1 - abs(strength))))


# The strength is in [-1, 1]; operations without a direction use its size.
_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, strength: image,  # which changes nothing
    lambda image, strength: _shear(image, x=0.3 * strength),
    lambda image, strength: _shear(image, y=0.3 * strength),
    lambda image, strength: _translate(image, x=150 / 331 * strength),
    lambda image, strength: _translate(image, y=150 / 331 * strength),
    lambda image, strength: image.rotate(30 * strength, _NEAREST),
    lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    _posterize,
    _solarize,
    lambda image, strength: ImageOps.autocontrast(image),
    lambda image, strength: ImageOps.equalize(image),
)
