"""Keeps the lines of an input until their predictions are written, and makes lines of JSON and of tables."""

import json
import sys
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources import files
from jaxft.errors import UserError


class InputLines:
    """The lines of a file or of stdin ("-"), as bytes, with their line ends.

    Iteration reads lines and keeps each until `take` returns it. Memory therefore holds only the lines that the
    consumer has read ahead.
    """

    def __init__(self, source: str):
        self.name = files.source_name(source)
        self._stream = sys.stdin.buffer if source == "-" else open(source, "rb")
        self._kept_lines: deque[bytes] = deque()
        self._taken_count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self._kept_lines.append(line)
            yield line

    def close(self) -> None:
        """Closes the file. Stdin stays open."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()

    def take(self, count: int) -> list[bytes]:
        """Returns the next `count` lines and drops them."""
        self._taken_count += count
        return [self._kept_lines.popleft() for _ in range(count)]

    def take_until(self, origin: str) -> list[bytes]:
        """Takes the lines before the line that an example's `origin` names, such as "data.csv:17"."""
        return self.take(int(origin.rpartition(":")[2]) - 1 - self._taken_count)

    def take_rest(self) -> list[bytes]:
        """Takes the lines after the last example, once all lines are read."""
        return self.take(len(self._kept_lines))


def choose_format(source: str, format: str, guessed: str, formats: tuple[str, ...]) -> str:
    """Returns `format`, or `guessed` if it is "auto".

    Raises:
      UserError: predictions do not support the source or its format.
    """
    if source.startswith(("demo:", "hub:")):
        raise UserError(f"--input {source}: predictions are for files and stdin; save the text in a file")
    chosen = guessed if format == "auto" else format
    if chosen not in formats:
        raise UserError(
            f"{source}: predictions are for {', '.join(formats)}, not {chosen}; give the text in one of these"
        )
    return chosen


def extend_json_line(line: bytes, additions: Mapping[str, Any]) -> bytes:
    """Returns a JSON line with added keys. A key that the line already has is added as `predicted_KEY`."""
    record = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    return make_json_line(record | {free_key(key, record): value for key, value in additions.items()})


def free_key(key: str, used: Container[str]) -> str:
    """Returns `key`, or `predicted_KEY` if `key` is used and does not begin with "predicted_"."""
    return f"predicted_{key}" if key in used and not key.startswith("predicted_") else key


def make_json_line(record: Mapping[str, Any]) -> bytes:
    """Returns a JSON line in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape but UTF-8 cannot encode
        return json.dumps(record).encode() + b"\n"


def prediction_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields JSON lines of texts, gold labels and predictions."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False) + "\n"


def error_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yields the lines of a tab-separated error list with a header. White space in a cell becomes one space."""
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(" ".join(str(row[name]).split()) for name in columns) + "\n"
