"""Decodes all images of a data set once, so that broken ones are known before a run starts."""

from collections.abc import Sequence
from pathlib import Path

from jaxft.data.sources import files
from jaxft.data.sources.images.decoding import MAX_PIXELS
from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.reading import ImageExample


def check_images(
    examples: Sequence[ImageExample],
    pool: DecodingPool,
    *,
    name: str,
    on_broken: str = "refuse",
    max_pixels: int = MAX_PIXELS,
    cache_folder: Path | None = None,
    log: files.Log = files.log_nothing,
) -> list[ImageExample]:
    """Returns the examples whose images can be decoded, each with the digest of its content.

    Args:
      examples: the examples.
      pool: decodes the images.
      name: the name of the data set, for messages.
      on_broken: "refuse" raises an error for broken images; "skip" leaves them out and logs which.
      max_pixels: the most pixels of an image.
      cache_folder: the folder that keeps what was found out; None for no cache. Files of the same paths, sizes and
        times of change are not decoded again.
      log: prints a line about broken images.

    Raises:
      UserError: images are broken, with their number and the first of them; or with "skip", all are.
    """
    raise NotImplementedError
