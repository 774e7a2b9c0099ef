"""Makes a model's inputs of images as transformers' processors with Pillow do, pixel for pixel."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxft.errors import UserError
from jaxft.io.files import write_json

CONFIG_NAME = "preprocessor_config.json"
_MOST_SIDE, _MOST = 1 << 14, 1e30  # pixels of a side; a number
PLAIN_TYPE = "ViTImageProcessor"  # resizes images, and cuts nothing off
_WARPED_FROM = 384  # from this shortest edge on, ConvNext's processor crops nothing
_HALF, _CLIP = ((0.5,) * 3,) * 2, ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SQUARE, _SHORTEST_224 = {"height": 224, "width": 224}, {"shortest_edge": 224}
_BASE = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


def _defaults(statistics: tuple[Any, Any], resample: Image.Resampling, **values: Any) -> dict[str, Any]:
    return {**_BASE, "image_mean": statistics[0], "image_std": statistics[1], "resample": resample, **values}


_CROPPED = {"size": _SHORTEST_224, "do_center_crop": True, "crop_size": _SQUARE}
_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
# The values that transformers' classes have for what a preprocessor_config.json lacks.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN_TYPE: _defaults(_HALF, _BILINEAR, size=_SQUARE),
    "DeiTImageProcessor": _defaults(
        _HALF, _BICUBIC, size={"height": 256, "width": 256}, do_center_crop=True, crop_size=_SQUARE
    ),
    "ConvNextImageProcessor": _defaults(_HALF, _BICUBIC, size={"shortest_edge": 384}, crop_pct=224 / 256),
    "BitImageProcessor": _defaults(_CLIP, _BICUBIC, **_CROPPED),
    "CLIPImageProcessor": _defaults(_CLIP, _BICUBIC, **_CROPPED),
}
TYPES = tuple(_DEFAULTS)


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes, crops and normalizes images. Implements `hub.processors.Processor`.

    Attributes:
      processor_type: the name of transformers' class.
      size: what images are resized to: height and width, or the shortest edge; None if they are not.
      resample: Pillow's number of the resampling filter.
      crop_size: height and width of the part in the middle that is cut out; None for all of the image.
      crop_share: the share of the shortest edge that is cut out, in ConvNext's way; None for other types.
      rescale_factor: what pixels are multiplied by; None if they are not.
      mean, std: of each channel, for normalization; both None without it.
    """

    processor_type: str
    size: tuple[int, int] | int | None
    resample: int
    crop_size: tuple[int, int] | None
    crop_share: float | None
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], default_type: str | None = None, name: str = CONFIG_NAME
    ) -> "ImageProcessor":
        """Returns the processor that a preprocessor_config.json describes.

        Args:
          config: the content of the file. What it lacks is the default of transformers' class.
          default_type: the name of transformers' class, for old files without one.
          name: the name of the file in messages.

        Raises:
          UserError: the type cannot be read, a value is none that can be, or images would not all have one size.
        """
        processor_type = _find_type(config, default_type, name)
        values = {
            **_DEFAULTS[processor_type],
            **{key: value for key, value in config.items() if value is not None},
        }
        if odd := [key for key in ("do_pad", "use_square_size") if values.get(key)]:
            raise UserError(
                f"{name}, {odd[0]}: {values[odd[0]]!r}; a {processor_type} that does so cannot be read"
            )
        is_square = isinstance(_DEFAULTS[processor_type]["size"].get("height"), int)
        size = _parse_size(values["size"], is_square, f"{name}, size") if values["do_resize"] else None
        crops = values.get("do_center_crop", False)
        crop = _parse_size(values.get("crop_size"), True, f"{name}, crop_size") if crops else None
        share = values.get("crop_pct")
        if share is not None and (
            crops or not isinstance(size, int) or not _is_number(share) or not 0.01 <= share <= 1
        ):
            raise UserError(
                f"{name}: a {processor_type} with size {values['size']!r}, do_center_crop {crops!r} and crop_pct "
                f"{share!r}; expected a shortest_edge, no do_center_crop, and a crop_pct from 0.01 to 1"
            )
        if isinstance(crop, int) or (crop is None and share is None and not isinstance(size, tuple)):
            raise UserError(
                f"{name}: images would not all have the same size; expected a size with height and width, or "
                "do_center_crop with a crop_size"
            )
        factor = (
            _parse_number(values["rescale_factor"], f"{name}, rescale_factor")
            if values["do_rescale"]
            else None
        )
        mean = (
            _parse_channels(values["image_mean"], f"{name}, image_mean") if values["do_normalize"] else None
        )
        std = _parse_channels(values["image_std"], f"{name}, image_std") if values["do_normalize"] else None
        if std is not None and not all(np.array(std, np.float32)):
            raise UserError(f"{name}, image_std: {list(std)}; expected numbers other than 0")
        return cls(
            processor_type, size, _parse_filter(values["resample"], name), crop, share, factor, mean, std
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the content of preprocessor_config.json. transformers then also makes images of any kind RGB."""
        size: Mapping[str, int] = (
            {"shortest_edge": self.size} if isinstance(self.size, int) else _as_sides(self.size)
        )
        return {
            "image_processor_type": self.processor_type,
            "do_convert_rgb": True,
            "do_resize": self.size is not None,
            **({"size": size} if size else {}),
            "resample": self.resample,
            "do_center_crop": self.crop_size is not None,
            **({"crop_size": _as_sides(self.crop_size)} if self.crop_size else {}),
            **({"crop_pct": self.crop_share} if self.crop_share is not None else {}),
            "do_rescale": self.rescale_factor is not None,
            **({"rescale_factor": self.rescale_factor} if self.rescale_factor is not None else {}),
            "do_normalize": self.mean is not None,
            **(
                {"image_mean": list(self.mean), "image_std": list(self.std)} if self.mean and self.std else {}
            ),
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.to_hf(), sort_keys=True).encode()).hexdigest()

    def save_pretrained(self, folder: Path) -> None:
        """Writes preprocessor_config.json into `folder`."""
        write_json(folder / CONFIG_NAME, self.to_hf())

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images that a model gets."""
        crop = self._cut
        if crop is None:
            assert isinstance(self.size, tuple | int)  # `from_hf` requires it
            crop = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return crop

    def with_output_size(self, height: int, width: int) -> "ImageProcessor":
        """Returns this processor for a model of another image size; what is resized before a crop grows in step.

        Raises `UserError` for sides that differ, where the type can only make squares.
        """
        if self.crop_share is not None:
            if height != width:
                raise UserError(f"images of {height} x {width}: a {self.processor_type} makes squares only")
            return dataclasses.replace(self, size=height)
        if self.crop_size is None:
            return dataclasses.replace(self, size=(height, width))
        scales = height / self.crop_size[0], width / self.crop_size[1]
        size: tuple[int, int] | int | None = self.size
        if isinstance(size, int):
            size = max(round(size * max(scales)), 1)
        elif size is not None:
            size = max(round(size[0] * scales[0]), 1), max(round(size[1] * scales[1]), 1)
        return dataclasses.replace(self, size=size, crop_size=(height, width))

    @property
    def _cut(self) -> tuple[int, int] | None:
        """The height and width of what is cut out of a resized image; None for all of it."""
        if self.crop_share is None:
            return self.crop_size
        assert isinstance(self.size, int)
        return (self.size, self.size) if self.size < _WARPED_FROM else None

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width to which an image of this height and width is resized."""
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        if self.crop_share is None:
            return fit_shortest_edge(height, width, self.size)
        if self.size >= _WARPED_FROM:
            return self.size, self.size
        return fit_shortest_edge(height, width, int(self.size / self.crop_share))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image, uint8 `[H, W, 3]`, as far as it is resized before it is cropped."""
        if self.size is None:
            return image
        return resize_image(image, self.resized_size(*image.shape[:2]), self.resample)

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Cuts the middle out of a resized image; fills up with black what is smaller."""
        return image if self._cut is None else crop_center(image, *self._cut)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Rescales and normalizes images, uint8 `[..., 3]` to float32 `[..., 3]`, rounded where transformers rounds."""
        values: np.ndarray = images
        if self.rescale_factor is not None:
            values = values.astype(np.float64)
            values *= self.rescale_factor
        values = values.astype(np.float32)
        if self.mean is not None and self.std is not None:
            values -= np.array(self.mean, np.float32)
            values /= np.array(self.std, np.float32)
        return values


def load_image_processor(folder: Path, default_type: str | None = None) -> ImageProcessor:
    """Loads the processor of a folder. Raises `UserError` if its file is missing or damaged."""
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it says how images are resized; put it back") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; put back a copy of it") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: a JSON {type(config).__name__}, where an object was expected")
    if "model_type" in config and not config.keys() & {"image_processor_type", "feature_extractor_type"}:
        raise UserError(
            f"{path}: the config.json of a model; put back the file that says how images are resized"
        )
    return ImageProcessor.from_hf(config, default_type, str(path))


def fit_shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """Returns the height and width of an image that is resized so that its shortest edge is `edge`."""
    short, long = sorted((height, width))
    longer = int(edge * long / short)
    return (longer, edge) if width <= height else (edge, longer)


def resize_image(
    image: np.ndarray, size: tuple[int, int], resample: int, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resizes an image, uint8 `[H, W, 3]`, to a height and width.

    Args:
      image: the image.
      size: the height and width.
      resample: Pillow's number of the filter.
      box: (left, top, right, bottom) of the part that is resized; None for all of it.
    """
    if box is not None:
        left, top, right, bottom = box
        image = image[top:bottom, left:right]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling(resample))
    return np.array(resized)


def crop_center(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts the middle out of an image, uint8 `[H, W, 3]`; fills up with black what is smaller."""
    cropped: np.ndarray = np.zeros((height, width, 3), np.uint8)
    sources, targets = zip(
        *(_overlap(length, part) for length, part in zip(image.shape, (height, width), strict=False)),
        strict=True,
    )
    cropped[targets] = image[sources]
    return cropped


def _overlap(length: int, part: int) -> tuple[slice, slice]:
    """Returns which range of `length` pixels lies in the `part` pixels of their middle, and where it lies there."""
    if part <= length:
        first = (length - part) // 2
        return slice(first, first + part), slice(part)
    first = (part - length + 1) // 2
    return slice(length), slice(first, first + length)


def _find_type(config: Mapping[str, Any], default_type: str | None, name: str) -> str:
    """Returns the name of transformers' class; those of earlier versions and other backends name the same one."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or default_type
    if isinstance(kind, str):
        base = kind.removesuffix("Pil").removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
        if base in _DEFAULTS:
            return base
    raise UserError(
        f"{name}: the image processor {kind!r}; those that can be read are {', '.join(_DEFAULTS)}: choose a checkpoint "
        "that has one of them"
    )


def _parse_size(value: Any, is_square: bool, place: str) -> tuple[int, int] | int:
    """Returns (height, width) or the shortest edge; an integer alone is both sides if `is_square`."""
    if isinstance(value, int):
        value = {"height": value, "width": value} if is_square else {"shortest_edge": value}
    elif isinstance(value, list | tuple) and len(value) == 2:
        value = dict(zip(("height", "width"), value, strict=True))
    sides = value if isinstance(value, Mapping) else {}
    if not all(
        _is_number(side) and isinstance(side, int) and 0 < side <= _MOST_SIDE for side in sides.values()
    ):
        sides = {}
    if sides.keys() == {"shortest_edge"}:
        return int(sides["shortest_edge"])
    if sides.keys() == {"height", "width"}:
        return int(sides["height"]), int(sides["width"])
    raise UserError(f"{place}: {value!r}; expected height and width, or shortest_edge, in pixels")


def _as_sides(size: tuple[int, int] | None) -> dict[str, int]:
    return dict(zip(("height", "width"), size, strict=True)) if size else {}


def _parse_filter(value: Any, name: str) -> int:
    try:
        return int(Image.Resampling(value))
    except ValueError:
        known = ", ".join(f"{filter.value} ({filter.name.lower()})" for filter in sorted(Image.Resampling))
        raise UserError(f"{name}, resample: {value!r}; expected {known}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST


def _parse_number(value: Any, place: str) -> float:
    if not _is_number(value):
        raise UserError(f"{place}: {value!r}; expected a number")
    return float(value)


def _parse_channels(value: Any, place: str) -> tuple[float, ...]:
    """Returns a number for each of three channels."""
    numbers = [value] * 3 if _is_number(value) else value
    if not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise UserError(f"{place}: {value!r}; expected a number for each of the three channels of colour")
    return tuple(_parse_number(number, place) for number in numbers)
