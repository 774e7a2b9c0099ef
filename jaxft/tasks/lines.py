"""Keeps the lines of an input until their predictions are written, and makes lines of JSON and of tables."""

import argparse
import itertools
import json
import select
import sys
from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources import encodings, files, formats
from jaxft.data.sources.formats import ExampleKind, FileFormat, ResolvedSource
from jaxft.data.sources.records.json_documents import read_json_document
from jaxft.errors import UserError

BLOCK_BYTES = 1 << 16  # the most bytes of a read
PAUSE_SECONDS = 0.01  # a pipe that has no line for so long pauses


class InputLines:
    """The lines of a file or of stdin ("-"), as bytes in UTF-8, with their line ends.

    The records of a JSON document are lines of JSON.

    Iteration reads lines and keeps each until `take` returns it. Memory therefore holds only the lines that the
    consumer has read ahead. Reads return what a pipe has at once, so that a line is not held back for the next one.
    """

    def __init__(self, source: ResolvedSource):
        self.name = files.source_name(source.address)
        self._converted: Iterator[bytes] | None = None  # lines that are not those of the file
        if source.format.name == "json":
            items = read_json_document(source.address, source.format.encoding, files.log_nothing)
            self._converted = (make_json_line(value) for _, _, value in items)
        elif not files.has_plain_lines(source.address, source.format.encoding):
            self._converted = files.read_raw_lines(source.address, source.format.encoding)
        self._stream = sys.stdin.buffer if source.address == "-" else open(source.address, "rb")
        try:
            self._stream.fileno()
            self._can_pause = self._converted is None
        except OSError:  # not a file of the system
            self._can_pause = False
        self._has_ended = False
        self._unread_lines: deque[bytes] = deque()
        self._line_begin: list[bytes] = []  # pieces of a line whose end was not read yet
        self._kept_lines: deque[bytes] = deque()
        self._taken_count = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            while self._unread_lines:
                line = self._unread_lines.popleft()
                self._kept_lines.append(line)
                yield line
            if self._has_ended:
                return
            self._read_block()

    def pauses(self) -> bool:
        """Returns whether reading the next line that is not blank would wait for the writer of a pipe."""
        while not any(line.strip() for line in self._unread_lines):
            if self._has_ended or not self._can_pause:
                return False
            if not select.select([self._stream], [], [], PAUSE_SECONDS)[0]:
                return True
            self._read_block()
        return False

    def _read_block(self) -> None:
        """Reads what the stream has, and waits if it has nothing yet."""
        if self._converted is not None:
            lines = list(itertools.islice(self._converted, 1))
            self._unread_lines += lines
            self._has_ended = not lines
            return
        block = self._stream.read1(BLOCK_BYTES)
        self._has_ended = not block
        *lines, rest = block.split(b"\n")
        for line in lines:
            self._unread_lines.append(b"".join([*self._line_begin, line, b"\n"]))
            self._line_begin = []
        if rest:
            self._line_begin.append(rest)
        if self._has_ended and self._line_begin:  # a last line without a line end
            self._unread_lines.append(b"".join(self._line_begin))
            self._line_begin = []

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


def resolve_input(
    flags: argparse.Namespace, kind: ExampleKind, names: Sequence[str], *, keys: Collection[str]
) -> ResolvedSource:
    """Returns the input of a prediction with its format, and says on stderr what its content decided.

    Args:
      flags: the flags; `input` is a path, or "-" for stdin, and `format` its format.
      kind: the kind of the examples.
      names: the formats that predictions are written for.
      keys: the keys that the examples are read from.

    Raises:
      UserError: the input cannot be read, or predictions do not support it or its format.
    """
    source = flags.input
    if source.startswith(("demo:", "hub:")):
        raise UserError(f"--input {source}: predictions are for files and stdin; save the text in a file")
    format = FileFormat(flags.format)

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    [resolved] = formats.resolve_source(source, kind, format, log, keys=keys)
    if resolved.format.name not in (*names, "json"):
        raise UserError(
            f"{source}: predictions are for {', '.join(names)}, not {resolved.format.name}; give the text in one of "
            "these"
        )
    return resolved


def format_of_lines(format: FileFormat) -> FileFormat:
    """Returns the format of `InputLines` of a file with this format."""
    name = "jsonl" if format.name == "json" else format.name
    return FileFormat(name, encodings.UTF8, format.delimiter)


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
