"""Reads texts from a folder for each label with a file for each text, as IMDb's reviews are laid out."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeGuard

from jaxft.data.sources import files, formats
from jaxft.data.sources.records.filters import split_filter
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

UNLABELLED = "unsup"  # IMDb's folder of texts without a label
# Names of a split's folder, by the name of the data set.
_SPLIT_FOLDERS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}


def is_folder(source: object) -> TypeGuard[str]:
    """Returns whether a source is a folder, with or without a filter of records."""
    return isinstance(source, str) and os.path.isdir(split_filter(source)[0])


def choose_split_folder(source: str, split: str) -> str:
    """Returns the source of a split: FOLDER/train if `source` is a folder that has it, else `source` unchanged.

    Args:
      source: the source.
      split: "train", "dev" or "test".
    """
    folder, record_filter = split_filter(source)
    if os.path.isdir(folder):
        for name in _SPLIT_FOLDERS.get(split, ()):
            if _has_labels(os.path.join(folder, name)):
                return os.path.join(folder, name) + (f"?{record_filter}" if record_filter else "")
    return source


def read_class_folders(
    folder: str, *, text_key: str, label_key: str | None, format: formats.FileFormat, log: files.Log
) -> Iterator[Record]:
    """Returns the records of a folder, sorted by label and file name, and logs what is not read.

    The folder has a folder for each label, whose files *.txt are a text each. Texts in the folder `UNLABELLED` and
    other files are not read.

    Args:
      folder: the path.
      text_key: the key of the text in a record.
      label_key: the key of the label, the name of the folder; None without labels.
      format: has the encoding of the files.
      log: prints a line.

    Raises:
      UserError: fewer than two folders in the folder have texts.
    """
    texts = {path: _list_texts(path) for path in _list_folders(folder)}
    labelled = {path: names for path, names in texts.items() if names and not _is_unlabelled(path)}
    deeper = [path for path in texts if _has_labels(path)]  # IMDb's train/ has lists of addresses in .txt
    if deeper or len(labelled) < 2:
        layout = os.path.join(folder, "LABEL", "NAME.txt")
        raise UserError(
            f"{folder}: a folder, where a data file or a folder for each of two labels or more was expected, with a "
            f"text in each file {layout}; name {' or '.join(deeper) or 'a file in it'}"
        )
    log(f"{folder}: {len(labelled):,} folders, read as labels, with a text in each file .txt")
    for path, names in texts.items():
        if names and _is_unlabelled(path):
            log(f"{path}: not read, because its texts have no label: {len(names):,} files")
    others = sum(len(_list_files(path)) - len(texts.get(path, ())) for path in (folder, *texts))
    if others:
        log(f"{folder}: not read, because they are not .txt in the folder of a label: {others:,} files")
    return (
        _read_text(path, name, text_key, label_key, format)
        for path, names in labelled.items()
        for name in names
    )


def _read_text(
    folder: str, name: str, text_key: str, label_key: str | None, format: formats.FileFormat
) -> Record:
    """Returns the record of a text."""
    path = os.path.join(folder, name)
    files.check_size(path, format.max_text)
    encoding = formats.resolve_file(path, formats.TEXTS, replace(format, name="text")).encoding
    text = "".join(line for _, line in files.read_lines(path, encoding))
    record = {text_key: text.removesuffix("\n").removesuffix("\r")}
    return path, f"{path}:1", record | ({} if label_key is None else {label_key: os.path.basename(folder)})


def _has_labels(folder: str) -> bool:
    """Returns whether a folder in the folder has texts."""
    return any(map(_list_texts, _list_folders(folder)))


def _is_unlabelled(path: str) -> bool:
    return os.path.basename(path) == UNLABELLED


def _list_folders(folder: str) -> list[str]:
    """Returns the paths of the folders in a folder, sorted, without hidden ones."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and _is_visible(entry.name))


def _list_files(folder: str) -> list[str]:
    """Returns the names of the files in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file() and _is_visible(entry.name))


def _list_texts(folder: str) -> list[str]:
    """Returns the names of the files *.txt in a folder, sorted."""
    return [name for name in _list_files(folder) if name.lower().endswith(".txt")]


def _is_visible(name: str) -> bool:
    """Returns whether a file or folder is a user's, and not one of the system such as .DS_Store or __MACOSX."""
    return not name.startswith((".", "__"))
