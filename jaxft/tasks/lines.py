"""Reads an input once and keeps each line until what was predicted for it is written beside it."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources import conll
from jaxft.errors import UserError


class Lines:
    """The lines of a file or of stdin ("-"), as bytes, with their ends.

    Lines are kept from their reading until they are taken, so as many are held as the consumer reads ahead.
    """

    def __init__(self, source: str):
        self.name = conll.source_name(source)
        self._stream = sys.stdin.buffer if source == "-" else open(source, "rb")
        self._lines: deque[bytes] = deque()
        self._taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self._lines.append(line)
            yield line

    def close(self) -> None:
        """Closes a file; stdin stays open."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines."""
        self._taken += count
        return [self._lines.popleft() for _ in range(count)]

    def take_until(self, origin: str) -> list[bytes]:
        """The lines before the one that an example's `origin` names, "data.csv:17"."""
        return self.take(int(origin.rpartition(":")[2]) - 1 - self._taken)

    def take_rest(self) -> list[bytes]:
        """The lines after the last example, once all are read."""
        return self.take(len(self._lines))


def choose_format(source: str, format: str, guessed: str, formats: tuple[str, ...]) -> str:
    """The format that `source` has, or is `guessed` to have. Raises `UserError` for what cannot be predicted on."""
    if source.startswith(("demo:", "hub:")):
        raise UserError(f"--input {source}: predictions are for files and stdin; save the text in a file")
    found = guessed if format == "auto" else format
    if found not in formats:
        raise UserError(
            f"{source}: predictions are for {', '.join(formats)}, not {found}; give the text in one of these"
        )
    return found


def extended_json(line: bytes, new: Mapping[str, Any]) -> bytes:
    """A JSON line with keys added; one that it has already is added as `predicted_KEY`."""
    record = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    return json_line(record | {free_name(key, record): value for key, value in new.items()})


def free_name(key: str, used: Any) -> str:
    """`key`, or `predicted_KEY` where that is in use and does not itself say that it is predicted."""
    return f"predicted_{key}" if key in used and not key.startswith("predicted_") else key


def json_line(record: Mapping[str, Any]) -> bytes:
    """A JSON line in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape and UTF-8 cannot hold
        return json.dumps(record).encode() + b"\n"


def prediction_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """JSON lines: texts, gold labels and predictions."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False) + "\n"


def error_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """The error list, tab-separated with a header; white space within a cell becomes one space."""
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(" ".join(str(row[name]).split()) for name in columns) + "\n"
