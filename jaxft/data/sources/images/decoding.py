"""Decodes images with Pillow: the same bytes always become the same pixels."""

import contextlib
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TypeAlias

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from jaxft.errors import UserError, first_line

# The path of a file, the bytes of one, or pixels: uint8 [H, W] or [H, W, C].
ImageContent: TypeAlias = str | bytes | memoryview | np.ndarray

MAX_PIXELS = 80_000_000  # of an image, unless the user allows more
SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm".split()
)

# The first bytes of a format -> Pillow's class. `Image.open` would also try formats that start other programs, and its
# limit of pixels belongs to the process and is no setting.
_OPENERS: Mapping[bytes, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,  # BigTIFF
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    **{b"P%d" % number: PpmImagePlugin.PpmImageFile for number in range(1, 7)},
}
_EXPECTED = "expected a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
_BITS = "expected 8 or 16 bits: scale its values, and save it again"
_WHITE = (255, 255, 255, 255)
_HIGH_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # grey of 16 bits
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of `warnings.filters`


class BrokenImage(UserError):
    """The error of an image that cannot be decoded. The message has its place."""


def decode_image(image: ImageContent, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
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
    if isinstance(image, np.ndarray):
        return _decode_pixels(image, place, max_pixels)
    _silence_pillow()
    with _open_content(image, place) as file:
        with _report_unreadable(image if isinstance(image, str) else place, place):
            opener = _choose_opener(file, place)
        with _report_damage(place), opener(file) as opened:
            return decode_opened(opened, place, max_pixels)


def decode_opened(image: Image.Image, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the pixels of an image that Pillow has opened; see `decode_image`."""
    _silence_pillow()
    _check_size(*image.size, place, max_pixels)
    with _report_damage(place):
        image.load()
        # A PNG has 16 bits at most, and values of PPM are scaled to 16 bits by Pillow.
        if image.mode == "I" and image.format not in ("PNG", "PPM"):
            raise BrokenImage(f"{place}: an image of 32 bits for each pixel; {_BITS}")
        return _convert_to_rgb(_turn(image), place)


def _silence_pillow() -> None:
    """Hides what Pillow itself prints about an image.

    Its warnings do not name the file. They are about metadata that it can do without, and about sizes, which
    `max_pixels` limits; damaged pixels are errors. The filter stays, because all threads share the list of filters:
    `warnings.catch_warnings` could bring back a list that another thread has changed meanwhile.
    """
    if _PILLOW_WARNINGS not in warnings.filters:  # a change lets warnings that were shown be shown again
        warnings.filterwarnings("ignore", module=r"PIL\.")
    # It logs an error that it also raises.
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _report_damage(place: str) -> Iterator[None]:
    """Raises `BrokenImage` where the body fails to decode an image."""
    try:
        yield
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:
        # Some formats apply Pillow's own limit before `max_pixels` is.
        raise BrokenImage(f"{place}: the image is too large ({first_line(error)}); scale it down") from None
    except Exception as error:  # the errors of Pillow's formats have no common class
        raise BrokenImage(
            f"{place}: the image is truncated or damaged ({first_line(error)}); put back a copy of it"
        ) from None


def _convert_to_rgb(image: Image.Image, place: str) -> np.ndarray:
    """Returns the pixels of an image in RGB, uint8 `[H, W, 3]`; what is transparent is white.

    Raises `BrokenImage` for pixels of floating-point numbers.
    """
    if image.mode in _HIGH_MODES:
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # as Pillow does with colours of 16 bits
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise BrokenImage(f"{place}: an image of floating-point numbers; {_BITS}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return np.array(image.convert("RGB"))


def read_content(image: str | bytes | memoryview, place: str) -> bytes | memoryview:
    """Returns the bytes of an image. Raises `BrokenImage` for a path that cannot be read."""
    if not isinstance(image, str):
        return image
    with _open_content(image, place) as file, _report_unreadable(image, place):
        return file.read()


@contextlib.contextmanager
def _report_unreadable(path: str, place: str) -> Iterator[None]:
    """Raises `BrokenImage` where the body cannot open or read a file."""
    named = place if os.path.abspath(place) == os.path.abspath(path) else f"{place}: {path}"
    try:
        yield
    except FileNotFoundError:
        raise BrokenImage(f"{named}: no such file (in {os.getcwd()}); correct the path") from None
    except OSError as error:
        raise BrokenImage(f"{named}: the file cannot be read ({error.strerror or error})") from None
    except ValueError:  # a path with a null byte
        raise BrokenImage(f"{place}: {path!r} is no path of a file") from None


def _open_content(image: str | bytes | memoryview, place: str) -> IO[bytes]:
    if not isinstance(image, str):
        return io.BytesIO(image)
    with _report_unreadable(image, place):
        if not stat.S_ISREG(os.stat(image).st_mode):  # a pipe or device might never end
            raise BrokenImage(f"{place}: {image} is no file; expected the path of an image")
        return open(image, "rb")


def _choose_opener(file: IO[bytes], place: str) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    start = file.read(12)
    file.seek(0)
    for signature, opener in _OPENERS.items():
        if start.startswith(signature) and (signature != b"RIFF" or start[8:] == b"WEBP"):
            return opener
    problem = "the file is empty" if not start else "no image of a format that can be read"
    raise BrokenImage(f"{place}: {problem}; {_EXPECTED}")


def _turn(image: Image.Image) -> Image.Image:
    """Applies the rotation of EXIF data; a damaged entry asks for none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of the reader of EXIF data, which has no common class of errors
        return image


def _check_size(width: int, height: int, place: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BrokenImage(
            f"{place}: an image of {width:,} x {height:,} pixels, which takes {width * height * 3 / 1e6:,.0f} MB of "
            f"memory; at most {max_pixels:,} are allowed: scale it down, or set config.data.max_pixels to more"
        )


def _decode_pixels(pixels: np.ndarray, place: str, max_pixels: int) -> np.ndarray:
    """Returns an array as RGB, uint8 `[H, W, 3]`."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise BrokenImage(
            f"{place}: an array of {pixels.dtype} {list(pixels.shape)}; expected uint8 with [H, W], or [H, W, C] with "
            "1, 3 or 4 channels"
        )
    _check_size(pixels.shape[1], pixels.shape[0], place, max_pixels)
    if pixels.shape[2] == 4:
        return _convert_to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), place)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
