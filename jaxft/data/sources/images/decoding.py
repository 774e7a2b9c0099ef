"""Decodes images with Pillow: the same bytes always become the same pixels."""

import numpy as np

from jaxft.errors import UserError

MAX_PIXELS = 80_000_000  # of an image, unless the user allows more


class BrokenImage(UserError):
    """The error of an image that cannot be decoded. The message has its place."""


def decode_image(
    image: str | bytes | memoryview | np.ndarray, place: str, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Returns the pixels of an image in RGB: uint8 `[H, W, 3]`.

    Formats are JPEG, PNG, WebP, GIF, BMP, TIFF and PPM. The rotation that EXIF data asks for is applied. Transparent
    pixels are laid on white, as transformers does. Of 16 bits the upper 8 are kept. Of an animation, the first frame is
    decoded.

    Args:
      image: the path of a file, its bytes, or pixels, uint8 `[H, W]` or `[H, W, C]` with 1, 3 or 4 channels.
      place: its place, for messages.
      max_pixels: the most pixels of an image, which is compared with its header before it is decoded.

    Raises:
      BrokenImage: the file is missing, truncated, damaged, too large or of another format.
    """
    raise NotImplementedError
