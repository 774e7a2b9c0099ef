"""Prepares an image for a model, from its file to uint8 pixels of the model's size: what worker processes compute."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxft.data.sources.images.augmentation import Augmentation, DrawKey, crop_and_resize, is_flipped
from jaxft.data.sources.images.colour_operations import apply_rand_augment, jitter_colours
from jaxft.data.sources.images.decoding import (
    MAX_PIXELS,
    BrokenImage,
    ImageContent,
    decode_image,
    read_content,
)
from jaxft.data.sources.images.processors import (
    ImageProcessor,
    fit_shortest_edge,
    resize_image,
)

VIEW_COUNTS = {"center": 1, "flip": 2, "crops": 10}
_MARGIN = 8 / 7  # of an image whose corners are cut out, in relation to the crop; as 256 to 224


class Operation(Protocol):
    """Computes an array of an image. It is a pure function, which is the same in any process."""

    def prepare(
        self, image: ImageContent, place: str, *, view: int = 0, key: DrawKey | None = None
    ) -> np.ndarray:
        """Returns an array, uint8. Raises `BrokenImage`, with the place, if the image cannot be decoded."""

    def to_json(self) -> str:
        """Returns the operation as text; `operation_from_json` reads it."""


@dataclass(frozen=True)
class Preparation:
    """Says how images are prepared for a model. Implements `Operation`.

    Attributes:
      processor: the model's processor.
      augmentation: how images are changed; None for evaluation.
      views: the views of an image in evaluation: "center" is one as the processor makes it, "flip" that and its mirror
        image, "crops" the middle and four corners, and their mirror images.
      max_pixels: the most pixels of an image.
      kept_edge: the shortest edge that larger images are first resized to, so that they can be kept in a `PixelCache`;
        None for their own size.
    """

    processor: ImageProcessor
    augmentation: Augmentation | None = None
    views: str = "center"
    max_pixels: int = MAX_PIXELS
    kept_edge: int | None = None

    @property
    def view_count(self) -> int:
        """Number of views of an image: 1 in training, else 1, 2 or 10."""
        return 1 if self.augmentation is not None else VIEW_COUNTS[self.views]

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
        pixels = decode_image(image, place, self.max_pixels)
        if self.kept_edge is not None:
            pixels = _shrink(pixels, self.kept_edge)
        if self.augmentation is None:
            corner, is_mirrored = divmod(view, 2)
            pixels = self._cut_corner(pixels, corner - 1, place) if corner else self._process(pixels, place)
            return np.ascontiguousarray(pixels[:, ::-1] if is_mirrored else pixels)
        assert key is not None, "images of training have keys"
        return self._augment(pixels, place, self.augmentation, key)

    def _process(self, pixels: np.ndarray, place: str) -> np.ndarray:
        """Returns what the processor makes of an image."""
        self._check_resized(pixels, self.processor.resized_size(*pixels.shape[:2]), place)
        return self.processor.crop(self.processor.resize(pixels))

    def _augment(
        self, pixels: np.ndarray, place: str, augmentation: Augmentation, key: DrawKey
    ) -> np.ndarray:
        if augmentation.crop_scale is None:
            pixels = self._process(pixels, place)
        else:
            size, resample = self.processor.output_size, self.processor.resample
            pixels = crop_and_resize(pixels, size, resample, augmentation, key)
        if is_flipped(augmentation, key):
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        jitters = (
            augmentation.brightness or augmentation.contrast or augmentation.saturation or augmentation.hue
        )
        if augmentation.rand_augment or jitters:
            image = Image.fromarray(pixels)
            if augmentation.rand_augment:
                image = apply_rand_augment(image, augmentation, key)
            if jitters:
                image = jitter_colours(image, augmentation, key)
            pixels = np.array(image)
        return pixels

    def _cut_corner(self, pixels: np.ndarray, corner: int, place: str) -> np.ndarray:
        """Cuts a corner out of an image that is resized as the processor does, or larger where that leaves no margin.

        Args:
          pixels: the image.
          corner: 0 and 1 are at the top, 0 and 2 on the left.
          place: its place, for messages.
        """
        height, width = self.processor.output_size
        size = self.processor.resized_size(*pixels.shape[:2])
        if size[0] <= height or size[1] <= width:
            scale = max(height / size[0], width / size[1]) * _MARGIN
            size = math.ceil(size[0] * scale), math.ceil(size[1] * scale)
        self._check_resized(pixels, size, place)
        resized = resize_image(pixels, size, self.processor.resample)
        top, left = (size[0] - height) * (corner // 2), (size[1] - width) * (corner % 2)
        return resized[top : top + height, left : left + width]

    def _check_resized(self, pixels: np.ndarray, size: tuple[int, int], place: str) -> None:
        """Raises `BrokenImage` for a long strip, which would become huge when its shortest edge is enlarged."""
        if size[0] * size[1] > self.max_pixels:
            height, width = pixels.shape[:2]
            raise BrokenImage(
                f"{place}: an image of {width:,} x {height:,} pixels, which the model's processor resizes to "
                f"{size[1]:,} x {size[0]:,}; config.data.max_pixels allows {self.max_pixels:,}: cut it"
            )

    def to_json(self) -> str:
        """Returns the preparation as text."""
        augmentation = None if self.augmentation is None else dataclasses.asdict(self.augmentation)
        values: dict[str, Any] = {"processor": self.processor.to_hf(), "augmentation": augmentation}
        for name in ("views", "max_pixels", "kept_edge"):
            values[name] = getattr(self, name)
        return json.dumps(values)


@dataclass(frozen=True)
class Shrinking:
    """Decodes an image and makes it smaller, if its shortest edge is longer than `edge`. Implements `Operation`."""

    edge: int
    max_pixels: int = MAX_PIXELS

    def prepare(
        self, image: ImageContent, place: str, *, view: int = 0, key: DrawKey | None = None
    ) -> np.ndarray:
        """Returns uint8 `[H, W, 3]`."""
        return _shrink(decode_image(image, place, self.max_pixels), self.edge)

    def to_json(self) -> str:
        """Returns the operation as text."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class Hashing:
    """Decodes an image, so that damage is found, and describes its content. Implements `Operation`."""

    max_pixels: int = MAX_PIXELS

    def prepare(
        self, image: ImageContent, place: str, *, view: int = 0, key: DrawKey | None = None
    ) -> np.ndarray:
        """Returns the SHA-256 of the file's bytes, or of an array's shape and values, and the largest value of pixels.

        Returns:
          uint8 `[33]`.
        """
        if isinstance(image, np.ndarray):
            content = repr(image.shape).encode() + image.tobytes()
            pixels = decode_image(image, place, self.max_pixels)
        else:
            content = bytes(read_content(image, place))
            pixels = decode_image(content, place, self.max_pixels)
        return np.frombuffer(hashlib.sha256(content).digest() + bytes([pixels.max()]), np.uint8)

    def to_json(self) -> str:
        """Returns the operation as text."""
        return json.dumps(dataclasses.asdict(self))


def _shrink(pixels: np.ndarray, edge: int) -> np.ndarray:
    """Resizes an image whose shortest edge is longer than `edge`; of another one it returns the same array."""
    height, width = pixels.shape[:2]
    if min(height, width) <= edge:
        return pixels
    return resize_image(pixels, fit_shortest_edge(height, width, edge), Image.Resampling.BICUBIC)


def operation_from_json(text: str) -> Operation:
    """Returns the operation of a text that `to_json` made."""
    values = json.loads(text)
    if "edge" in values:
        return Shrinking(**values)
    if "processor" not in values:
        return Hashing(**values)
    augmentation = values.pop("augmentation")
    return Preparation(
        **values | {"processor": ImageProcessor.from_hf(values["processor"])},
        augmentation=None if augmentation is None else Augmentation(**augmentation),
    )
