"""Reads images that each have a label, several labels or a number, from folders, tables, datasets and programs."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.data.demo import images as demo_images
from jaxft.data.sources import class_folders, files, formats, labels
from jaxft.data.sources.class_folders import FileKind
from jaxft.data.sources.examples import admit_examples
from jaxft.data.sources.images.decoding import SUFFIXES, BrokenImage, ImageContent
from jaxft.data.sources.images.stored_content import store_content
from jaxft.data.sources.labels import DEFAULT_RULES, LabelRules
from jaxft.data.sources.records import filters, record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.errors import UserError

IMAGE_FILES = FileKind("image", SUFFIXES, are_nested=True)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.IGNORECASE)
# Keys that usually hold an image or a label, by setting; messages propose them.
_USUAL_KEYS = {
    "image": "image img file_name filename file path image_path filepath picture photo".split(),
    "label": "label labels class category target fine_label coarse_label y".split(),
}


@dataclass(frozen=True, slots=True, eq=False)
class ImageExample:
    """An example: an image that is not decoded yet, and its label."""

    image: ImageContent | BrokenImage = dataclasses.field(
        repr=False
    )  # an error, if a program's image is broken
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
      source: a folder with a folder of images for each label, which may have folders; without labels, any folder of
        images; an image file, or a pattern of them; a file of records with an image under `columns.image`, which is a
        path (relative to the file) or a struct of `bytes` and `path`; `demo:NAME/SPLIT` with the name digits or shapes;
        `hub:NAME/SPLIT`; `records:NAME`. A filter chooses records. Use `class_folders.choose_split_folder` with
        `IMAGE_FILES` for the folder of a split first.
      columns: the keys of images and labels.
      rules: the meaning of labels.
      format: how files are read. "text" is a path in each line, without labels.
      log: prints a line about the source.

    Raises:
      UserError: the source does not exist or holds no images, or a record is invalid (raised while reading).
    """
    rows = _list_rows(source, columns, format, log)
    if rows is None:
        keys = [key for key in (columns.image, *(columns.label or "").split(",")) if key]
        resolved = formats.resolve_source(source, formats.IMAGES, format, log, keys=keys)
        log = files.log_once(log)
        opened = files.open_each(lambda file: _read_file(file, columns, rules, log), resolved)
        images = itertools.chain.from_iterable(opened)
        return store_content(images) if resolved[0].format.name in ("parquet", "hub") else images
    return admit_examples(
        (parse_image(*row, columns, rules) for row in rows), source, "image", format.max_text
    )


def list_image_files(
    source: str, columns: ImageColumns, log: files.Log
) -> Iterator[record_values.Record] | None:
    """Returns a record for each image of a folder, a pattern or an image file; None for other sources."""
    return None if source.startswith("demo:") else _list_rows(source, columns, formats.UNSET, log)


def _list_rows(
    source: str | files.Stream, columns: ImageColumns, format: formats.FileFormat, log: files.Log
) -> Iterator[record_values.Record] | None:
    """Returns the records of a demo corpus, of a folder or of image files; None for other sources."""
    if not isinstance(source, str) or format.name != formats.AUTO:
        return None
    if _ADDRESS.match(source):
        raise UserError(f"{source[:100]}: an address; download the images, and name their files or folder")
    address, record_filter = filters.split_filter(source)
    if address.startswith("demo:"):
        return filters.filter_records(demo_images.generate_records(address), record_filter)
    if os.path.isdir(address):
        return filters.filter_records(_read_folder(address, columns, log), record_filter)
    paths = [source] if os.path.isfile(source) else files.find_files(source) or []
    if not paths or not all(path.lower().endswith(SUFFIXES) for path in paths):
        return None
    if columns.label is not None:
        raise UserError(
            f"{source}: image files without labels; name a folder with a folder of images for each label, or a file of "
            f"records such as a table with the columns {columns.image} (a path) and {columns.label}"
        )
    return ((path, path, {columns.image: os.path.abspath(path)}) for path in paths)


def _read_folder(folder: str, columns: ImageColumns, log: files.Log) -> Iterator[record_values.Record]:
    """Returns the records of a folder. Without labels, all images in it are read."""
    named: list[tuple[str, str, record_values.JsonObject]]
    if columns.label is None:
        named = [(folder, name, {}) for name in class_folders.list_files(folder, IMAGE_FILES)]
    else:
        labelled = class_folders.list_class_files(folder, IMAGE_FILES, log)
        named = [
            (path, name, {columns.label: os.path.basename(path)})
            for path, names in labelled.items()
            for name in names
        ]
    paths = [(os.path.join(path, name), label) for path, name, label in named]
    return ((path, path, {columns.image: os.path.abspath(path)} | label) for path, label in paths)


def _read_file(
    source: formats.ResolvedSource, columns: ImageColumns, rules: LabelRules, log: files.Log
) -> Iterator[ImageExample]:
    """Yields the examples of one file, stream or dataset."""
    address, name = source.address, files.source_name(source.address)
    features: Mapping[str, Any] = {}
    rows: Iterator[record_values.Record]
    if source.format.name == "text":
        if columns.label is not None:
            raise UserError(
                f"{name}: plain text has no labels; give JSON lines, a table or Parquet, or name the file's format in "
                "config.data.format"
            )
        lines = files.read_lines(address, source.format.encoding, max_bytes=source.format.max_text)
        rows = (
            (f"{name}, line {number}", f"{name}:{number}", {columns.image: line.rstrip("\r\n")})
            for number, line in lines
        )
    else:
        rows, features = read_records(source, formats.IMAGES, log, labelled=columns.label is not None)
    rules = dataclasses.replace(rules, integer_names=labels.integer_names(features.get(columns.label or "")))
    folder = os.path.dirname(address) if isinstance(address, str) and os.path.isfile(address) else ""
    examples = (parse_image(*row, columns, rules, folder) for row in rows)
    return admit_examples(examples, source.name, "image", source.format.max_text)


def parse_image(
    where: str,
    origin: str,
    record: record_values.JsonObject,
    columns: ImageColumns,
    rules: LabelRules = DEFAULT_RULES,
    folder: str = "",
) -> ImageExample:
    """Parses a record into an example.

    Args:
      where: the place of the record, for messages.
      origin: the example's origin.
      record: keys and values. The image is a path, the bytes of a file, an object with `bytes` or `path`, as `datasets`
        has it, or pixels, uint8 `[H, W]` or `[H, W, C]`.
      columns: the keys of images and labels.
      rules: the meaning of labels.
      folder: the folder that paths are relative to; "" for the current one.

    Raises:
      UserError: the record is invalid; the message has its place and key.
    """
    keys = () if columns.label is None else labels.split_keys(record, columns.label)
    for setting, key in (("image", columns.image), *(("label", key) for key in keys)):
        usual = [name for name in _USUAL_KEYS[setting] if name in record and name not in keys]
        example = f", such as config.data.{setting}={usual[0]}" if usual else ""
        hint = f"name the one that is meant in config.data.{setting}{example} (tables need a header)"
        record_values.require_value(record, key, where, hint)
    image = _parse_content(record[columns.image], f"{where}, key {columns.image!r}", folder)
    if columns.label is None:
        return ImageExample(image, None, origin)
    label = labels.parse_label(record, columns.label, where, rules)
    return ImageExample(image, label, origin, labels.declared_names(record, columns.label, rules))


def _parse_content(value: Any, place: str, folder: str) -> ImageContent | BrokenImage:
    """Returns the image of a value. Addresses are refused, and so is what is no image."""
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        content = value.get("bytes")
        value = value.get("path") if content is None else content
    if isinstance(value, bytes | np.ndarray | BrokenImage):
        return value
    if not isinstance(value, str) or not value.strip():
        shown = "an empty string" if isinstance(value, str) else record_values.describe_type(value)
        raise UserError(
            f"{place}: {shown} where an image was expected: a path, the bytes of a file, or a uint8 array"
        )
    if _ADDRESS.match(value):
        raise UserError(
            f"{place}: {value[:100]!r} is an address; download the image, and write the path of its file"
        )
    return os.path.abspath(os.path.join(folder, value))
