"""Generates `demo:digits`, scanned digits, and `demo:shapes`, drawn shapes in colours, with their labels."""

from collections.abc import Iterator

import numpy as np

from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

SIZES = {"train": 400, "dev": 120, "test": 120}  # images of shapes
SHAPES = ("circle", "cross", "ring", "square", "triangle")
COLOURS = {"blue": (50, 90, 220), "green": (40, 170, 70), "red": (210, 50, 50)}
SIDE = 32  # pixels of a shape's image

_SEED = 20261129
_SPLITS = ("train", "dev", "test")
_SIXTHS = {"train": (0, 1, 2, 3), "dev": (4,), "test": (5,)}  # of the digits


def generate_records(source: str) -> Iterator[Record]:
    """Generates the records `{"image", "label"}` of `demo:digits/SPLIT` or `demo:shapes/SPLIT`.

    Images are uint8 arrays: digits `[8, 8]`, from scikit-learn (Alpaydin and Kaynak, 1998), with 1,797 in all splits;
    shapes `[SIDE, SIDE, 3]`, such as "red circle", at any place, size and brightness on noise. No image is in two
    splits.
    """
    name, _, split = source.removeprefix("demo:").partition("/")
    if name not in ("digits", "shapes") or split not in _SPLITS:
        known = ", ".join(f"demo:{name}/{split}" for name in ("digits", "shapes") for split in _SPLITS)
        raise UserError(f"{source}: no such corpus of images; expected {known}")
    images = _load_digits(split) if name == "digits" else _draw_shapes(split)
    for number, (pixels, label) in enumerate(images, 1):
        yield f"{source}, image {number}", f"{source}:{number}", {"image": pixels, "label": label}


def _load_digits(split: str) -> Iterator[tuple[np.ndarray, str]]:
    from sklearn.datasets import load_digits  # takes a second, which other runs need not wait for

    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        if number % 6 in _SIXTHS[split]:
            yield np.round(pixels * (255 / 16)).astype(np.uint8), str(digit)


def _draw_shapes(split: str) -> Iterator[tuple[np.ndarray, str]]:
    rng = np.random.RandomState(
        [_SEED, _SPLITS.index(split)]
    )  # its numbers are the same in any version of numpy
    labels = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for number in range(SIZES[split]):
        colour, shape = labels[number % len(labels)]
        radius, light = rng.uniform(5, 11), rng.uniform(0.7, 1.2)
        x, y = rng.uniform(radius, SIDE - radius, 2)
        noise = rng.uniform(90, 200) + rng.normal(0, 12, (SIDE, SIDE, 3))
        mask = _draw_mask(shape, x, y, radius)[..., None]
        pixels = noise * (1 - mask) + np.array(COLOURS[colour]) * light * mask
        yield np.clip(pixels, 0, 255).astype(np.uint8), f"{colour} {shape}"


def _draw_mask(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Returns which pixels a shape covers: float64 `[SIDE, SIDE]`, 0 or 1."""
    row, column = np.mgrid[:SIDE, :SIDE] + 0.5
    across, down = column - x, row - y
    distance = np.hypot(across, down)
    masks = {
        "circle": distance < radius,
        "cross": (np.minimum(abs(across), abs(down)) < radius / 3)
        & (np.maximum(abs(across), abs(down)) < radius),
        "ring": (distance < radius) & (distance > radius * 0.6),
        "square": np.maximum(abs(across), abs(down)) < radius * 0.8,
        "triangle": (down < radius * 0.8) & (down > 2 * abs(across) - radius * 0.8),
    }
    return masks[shape].astype(np.float64)
