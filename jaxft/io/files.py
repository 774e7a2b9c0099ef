"""Writes text, JSON and line files, and reads JSON files of a run."""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxft.errors import UserError

# What a user can do about an output that cannot be written.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there, or name another place"),
    errno.ENOENT: "make its folder first",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in errors of safetensors, which have no errno


def describe_unwritable(place: str, error: Exception) -> str:
    """Returns why `place` cannot be written and what to do. Temporary files, which `error` may name, are not named."""
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    if match := _OS_ERROR.search(str(error)):
        number = int(match[1])
        reason = os.strerror(number)
    remedy = _REMEDIES.get(number or 0, "name a place that you may write to")
    return f"{place}: cannot be written: {reason or error}; {remedy}"


@contextlib.contextmanager
def folders_named(path: Path) -> Iterator[None]:
    """Raises `UserError` if a folder is where the body writes a file of a run."""
    try:
        yield
    except IsADirectoryError:
        raise UserError(
            f"{path}: a folder, where the run writes a file; move it away and start again"
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, in full or not at all: a reader never sees half a file.

    It writes `path` + ".tmp" in the same folder, which must exist, and renames it.
    """
    temporary = path.with_name(path.name + ".tmp")
    with folders_named(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def write_json(path: Path, values: Any) -> None:
    """Writes `values` as indented JSON, in full or not at all; makes the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes `lines`, each of which ends with its newline, as UTF-8; makes the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with folders_named(path), open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file that a run wrote.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the run there has not started, or its folder is incomplete; start its "
            "command again, or put the file back"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; jaxft wrote it whole, so put back a copy of it, or train the run anew"
        ) from None
