"""Makes a model's inputs of images as transformers' processors with Pillow do, pixel for pixel."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONFIG_NAME = "preprocessor_config.json"


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
      mean, std: of each channel, for normalization; None without it.
    """

    processor_type: str
    size: tuple[int, int] | int | None
    resample: int
    crop_size: tuple[int, int] | None
    crop_share: float | None
    rescale_factor: float | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None

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
          UserError: the type cannot be read, or images would not all have one size.
        """
        raise NotImplementedError

    def to_hf(self) -> dict[str, Any]:
        """Returns the content of preprocessor_config.json."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """A hash of the settings."""
        raise NotImplementedError

    def save_pretrained(self, folder: Path) -> None:
        """Writes preprocessor_config.json into `folder`."""
        raise NotImplementedError

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images that a model gets."""
        raise NotImplementedError

    def with_output_size(self, height: int, width: int) -> "ImageProcessor":
        """Returns this processor for a model of another image size; what is resized before a crop grows in step."""
        raise NotImplementedError

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image, uint8 `[H, W, 3]`, as far as it is resized before it is cropped."""
        raise NotImplementedError

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Cuts the middle out of a resized image; fills up with black what is smaller."""
        raise NotImplementedError

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Rescales and normalizes images, uint8 `[..., 3]` to float32 `[..., 3]`."""
        raise NotImplementedError


def load_image_processor(folder: Path, default_type: str | None = None) -> ImageProcessor:
    """Loads the processor of a folder. Raises `UserError` if its file is missing or damaged."""
    raise NotImplementedError
