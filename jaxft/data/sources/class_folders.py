"""Reads a folder for each label with a file for each example: texts as IMDb's reviews are laid out, or images."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeGuard

from jaxft.data.sources import files, formats
from jaxft.data.sources.records.filters import split_filter
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

UNLABELLED = "unsup"  # IMDb's folder of texts without a label
# Names of a split's folder, by the name of the data set.
_SPLIT_FOLDERS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}


class FileKind(NamedTuple):
    """A kind of examples that are a file each.

    Attributes:
      noun: the name of an example in messages.
      suffixes: the suffixes of their files, in lower case. Messages show the first.
      are_nested: True if files in folders within the folder of a label have that label too.
    """

    noun: str
    suffixes: tuple[str, ...]
    are_nested: bool = False


TEXT_FILES = FileKind("text", (".txt",))


def is_folder(source: object) -> TypeGuard[str]:
    """Returns whether a source is a folder, with or without a filter of records."""
    return isinstance(source, str) and os.path.isdir(split_filter(source)[0])


def choose_split_folder(source: str, split: str, kind: FileKind = TEXT_FILES) -> str:
    """Returns the source of a split: FOLDER/train if `source` is a folder that has it, else `source` unchanged.

    Args:
      source: the source.
      split: "train", "dev" or "test".
      kind: the kind of the examples.
    """
    folder, record_filter = split_filter(source)
    if os.path.isdir(folder):
        for name in _SPLIT_FOLDERS.get(split, ()):
            if _has_labels(os.path.join(folder, name), kind):
                return os.path.join(folder, name) + (f"?{record_filter}" if record_filter else "")
    return source


def read_class_folders(
    folder: str, *, text_key: str, label_key: str | None, format: formats.FileFormat, log: files.Log
) -> Iterator[Record]:
    """Returns the records of a folder of texts, sorted by label and file name, and logs what is not read.

    Args:
      folder: the path; see `list_class_files`.
      text_key: the key of the text in a record.
      label_key: the key of the label, the name of the folder; None without labels.
      format: has the encoding of the files.
      log: prints a line.

    Raises:
      UserError: fewer than two folders in the folder have texts.
    """
    labelled = list_class_files(folder, TEXT_FILES, log)
    return (
        _read_text(path, name, text_key, label_key, format)
        for path, names in labelled.items()
        for name in names
    )


def list_class_files(folder: str, kind: FileKind, log: files.Log) -> dict[str, list[str]]:
    """Returns the files of each label's folder in a folder, by the label's folder, and logs what is not read.

    Files with other suffixes and examples in the folder `UNLABELLED` are not read.

    Args:
      folder: the path.
      kind: the kind of the examples.
      log: prints a line.

    Returns:
      The path of each label's folder, sorted, with the names of its files in it, sorted.

    Raises:
      UserError: fewer than two folders in the folder have examples.
    """
    examples = {path: list_files(path, kind) for path in _list_folders(folder)}
    labelled = {path: names for path, names in examples.items() if names and not _is_unlabelled(path)}
    deeper = [
        path for path in examples if _has_labels(path, kind)
    ]  # IMDb's train/ has lists of addresses in .txt
    if kind.are_nested:  # only the name of a folder tells a split from a label then
        splits = {name for names in _SPLIT_FOLDERS.values() for name in names}
        deeper = [path for path in deeper if os.path.basename(path) in splits]
    article = "an" if kind.noun[0] in "aeiou" else "a"
    if deeper or len(labelled) < 2:
        layout = os.path.join(folder, "LABEL", f"NAME{kind.suffixes[0]}")
        raise UserError(
            f"{folder}: a folder, where a data file or a folder for each of two labels or more was expected, with "
            f"{article} {kind.noun} in each file {layout}; name {' or '.join(deeper) or 'a file in it'}"
        )
    shown = ", ".join(kind.suffixes)
    log(
        f"{folder}: {len(labelled):,} folders, read as labels, with {article} {kind.noun} in each file {shown}"
    )
    for path, names in examples.items():
        if names and _is_unlabelled(path):
            log(f"{path}: not read, because its {kind.noun}s have no label: {len(names):,} files")
    all_files = [
        *_list_files(folder, False),
        *(name for path in examples for name in _list_files(path, kind.are_nested)),
    ]
    others = len(all_files) - sum(map(len, examples.values()))
    if others:
        log(f"{folder}: not read, because they are not {shown} in the folder of a label: {others:,} files")
    return labelled


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


def _has_labels(folder: str, kind: FileKind) -> bool:
    """Returns whether a folder in the folder has examples."""
    return any(list_files(path, kind) for path in _list_folders(folder))


def _is_unlabelled(path: str) -> bool:
    return os.path.basename(path) == UNLABELLED


def _list_folders(folder: str) -> list[str]:
    """Returns the paths of the folders in a folder, sorted, without hidden ones."""
    if not os.path.isdir(folder):
        return []
    return sorted(entry.path for entry in _scan(folder) if os.path.isdir(entry.path))


def list_files(folder: str, kind: FileKind) -> list[str]:
    """Returns the names of the examples' files in a folder, sorted; with their folders if they are nested."""
    return [name for name in _list_files(folder, kind.are_nested) if name.lower().endswith(kind.suffixes)]


def _list_files(folder: str, are_nested: bool, outer: tuple[str, ...] = ()) -> list[str]:
    """Returns the names of the files in a folder, sorted, without hidden ones.

    With `are_nested`, files of the folders in it are there too, and links that lead nowhere, which a reader then names.

    Args:
      folder: the path.
      are_nested: see above.
      outer: the folders around it. Links that lead back to them are not followed.
    """
    names, path = [], (*outer, os.path.realpath(folder))
    for entry in _scan(folder):
        if are_nested and os.path.isdir(entry.path):
            if os.path.realpath(entry.path) not in path:
                names += [os.path.join(entry.name, name) for name in _list_files(entry.path, True, path)]
        elif os.path.isfile(entry.path) or (are_nested and entry.is_symlink()):
            names.append(entry.name)
    return sorted(names)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, without hidden files and folders. Raises `UserError` if it cannot be read.

    Ask `os.path` of the kind of an entry: the entry itself raises an error for a link to itself.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if _is_visible(entry.name)]
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be read ({error.strerror}); make it readable, or move it"
        ) from None


def _is_visible(name: str) -> bool:
    """Returns whether a file or folder is a user's, and not one of the system such as .DS_Store or __MACOSX."""
    return not name.startswith((".", "__"))
