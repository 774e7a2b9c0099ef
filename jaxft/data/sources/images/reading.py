"""Reads images that each have a label, several labels or a number, from folders, tables, datasets and programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxft.data.sources import files, formats
from jaxft.data.sources.images.decoding import ImageContent
from jaxft.data.sources.labels import DEFAULT_RULES, LabelRules


@dataclass(frozen=True, slots=True)
class ImageExample:
    """An example: an image that is not decoded yet, and its label."""

    image: ImageContent
    label: Any  # a `Label`, of one kind for all images; None if labels are not read
    origin: str  # "cats/1.jpg", "photos.csv:17", for messages
    label_names: tuple[str, ...] = ()  # the names of labels in the order that the data or the user declares
    digest: str = ""  # a hash of the content, which `check_images` sets


@dataclass(frozen=True, slots=True)
class ImageColumns:
    """The keys of images and labels in a record."""

    image: str = "image"
    label: str | None = "label"  # None if labels are not read


def read_images(
    source: str | files.Stream,
    *,
    columns: ImageColumns,
    rules: LabelRules = DEFAULT_RULES,
    format: formats.FileFormat = formats.UNSET,
    log: files.Log = files.log_nothing,
) -> Iterator[ImageExample]:
    """Streams the examples of a source, in its order. No image is decoded; see `checking.check_images`.

    Args:
      source: a folder with a folder of images for each label; without labels, any folder of images; an image file, or a
        pattern of them; a file of records with an image under `columns.image`, which is a path (relative to the file)
        or a struct of `bytes` and `path`; `demo:NAME/SPLIT` with the name digits or shapes; `hub:NAME/SPLIT`;
        `records:NAME`. A filter chooses records. Use `class_folders.choose_split_folder` for a split's folder first.
      columns: the keys of images and labels.
      rules: the meaning of labels.
      format: how files are read. "text" is a path in each line, without labels.
      log: prints a line about the source.

    Raises:
      UserError: the source does not exist or holds no images, or a record is invalid (raised while reading).
    """
    raise NotImplementedError


def parse_image(
    where: str,
    origin: str,
    record: dict[str, Any],
    columns: ImageColumns,
    rules: LabelRules = DEFAULT_RULES,
    folder: str = "",
) -> ImageExample:
    """Parses a record into an example.

    Args:
      where: the place of the record, for messages.
      origin: the example's origin.
      record: keys and values.
      columns: the keys of images and labels.
      rules: the meaning of labels.
      folder: the folder that paths are relative to.

    Raises:
      UserError: the record is invalid; the message has its place and key.
    """
    raise NotImplementedError
