"""Reads the records of an input one by one, and keeps the lines that they come from."""

import codecs
import re
import select
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxft.data.sources import encodings, files, formats
from jaxft.data.sources.examples import check_value, require_examples
from jaxft.data.sources.formats import ExampleKind, FileFormat, ResolvedSource
from jaxft.data.sources.questions import read_squad_records
from jaxft.data.sources.records import json_lines, tables
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.records.record_values import Record, describe_type
from jaxft.errors import UserError

BLOCK_BYTES = 1 << 16  # the most bytes of a read
BURST_BYTES = 1 << 23  # of lines that are read before the records so far are answered
PAUSE_SECONDS = 0.01  # a pipe that has no line for so long pauses
READ_BY_LINE = ("text", "jsonl", "csv", "tsv", "conll", "conllu")  # formats that are a stream of lines
# Settings of a run's data that are flags of verbs with an --input.
INPUT_FLAGS = {
    "format": "--format",
    "encoding": "--encoding",
    "delimiter": "--delimiter",
    "max_text": "--max_text",
    "word_column": "--word_column",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A record of an input.

    Attributes:
      where: its place, for messages: "data.csv, line 17".
      origin: "data.csv:17", the number of its first line.
      value: the record; a `Sentence` in CoNLL columns; the error of a record that cannot be read.
    """

    where: str
    origin: str
    value: Any


class InputLines:
    """The lines of a file or of stdin ("-"), as bytes in UTF-8, with their line ends.

    Iteration reads lines and keeps each until `take` returns it. Memory therefore holds only the lines that the
    consumer has read ahead. A read returns what a pipe has, so no line waits for the one after it. A line longer than
    `max_bytes` is cut while it is read, but remains longer.
    """

    def __init__(self, source: str, encoding: str = encodings.UTF8, max_bytes: int = files.UNBOUNDED):
        self.name, self._encoding, self._max_bytes = files.source_name(source), encoding, max_bytes
        is_utf8 = encodings.is_utf8(encoding)
        self._is_latin_1 = encodings.is_latin_1(encoding)
        sample = encodings.decode_sample(files.peek(source), encoding)
        self._has_lone_returns = encodings.has_lone_returns(sample)
        self._decoder = None if is_utf8 else codecs.getincrementaldecoder(encoding)()
        self._stream = files.stdin_bytes() if source == "-" else open(source, "rb")
        try:
            self._stream.fileno()
            self._can_pause = True
        except OSError:  # not a file of the system
            self._can_pause = False
        self._has_ended = False
        self._unread_lines: deque[bytes] = deque()
        self._line_begin: list[bytes] = []  # pieces of a line whose end was not read yet
        self._kept_lines: deque[bytes] = deque()
        self._taken_count = 0
        self.read_bytes = 0  # by iteration, so far

    def __iter__(self) -> Iterator[bytes]:
        while True:
            while self._unread_lines:
                line = self._unread_lines.popleft()
                self._kept_lines.append(line)
                self.read_bytes += len(line)
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
        block = self._stream.read1(BLOCK_BYTES)
        self._has_ended = not block
        if self._decoder is not None:
            try:
                text = self._decoder.decode(block, final=self._has_ended)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.name}: 0x{error.object[error.start]:02x} is not {error.encoding} ({error.reason}); "
                    "name the encoding of the file in config.data.encoding"
                ) from None
            if self._is_latin_1 and (control := encodings.find_control(text)):
                raise UserError(f"{self.name}: {encodings.describe_control(control, 'latin-1')}")
            block = encodings.encode_text(text, self.name, self._encoding)
        if self._has_lone_returns:
            block = block.replace(b"\r", b"\n")
        *lines, rest = block.split(b"\n")
        for line in lines:
            self._unread_lines.append(b"".join([*self._line_begin, line, b"\n"]))
            self._line_begin = []
        if rest and sum(map(len, self._line_begin)) <= self._max_bytes:
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
        """Takes the lines before the line that an item's `origin` names, such as "data.csv:17"."""
        return self.take(int(origin.rpartition(":")[2]) - 1 - self._taken_count)

    def take_rest(self) -> list[bytes]:
        """Takes the lines that were read and not taken yet."""
        return self.take(len(self._kept_lines))


@dataclass(frozen=True)
class Input:
    """An input: how it is read, and its lines.

    Attributes:
      source: the file or stdin, and its format.
      kind: the kind of the examples that are made of the records.
      lines: the lines; None if the format is not one of `READ_BY_LINE`.
      log: prints a line.
      records: the records, if the input is no file of records; see `Answers.list_records`.
    """

    source: ResolvedSource
    kind: ExampleKind
    lines: InputLines | None
    log: files.Log
    records: Iterator[Record] | None = None

    @property
    def name(self) -> str:
        """The name of the input in messages."""
        return files.source_name(self.source.address)

    def require_lines(self) -> InputLines:
        """Returns the lines of an input whose format is one of `READ_BY_LINE`."""
        assert self.lines is not None, f"{self.source.format.name} is not read by line"
        return self.lines

    def read(
        self, text_key: str, read_columns: Callable[[InputLines], Iterable[Any]] | None = None
    ) -> Iterator[Item | None]:
        """Yields the records in order, and None wherever those before are to be answered before the next one is read.

        This is where the next one has not arrived yet, and after `BURST_BYTES`, so that memory is bounded.

        A record that cannot be read is an item with an error, if the next one can be read nevertheless.

        Args:
          text_key: the key of a line of text in its record.
          read_columns: reads sentences from lines of CoNLL columns; None if the input cannot be in columns.

        Raises:
          UserError: the input cannot be read any further, or it holds no record.
        """
        items = require_examples(
            self._read_items(text_key, read_columns), self.source.address, self.kind.noun
        )
        try:
            answered_bytes = 0
            while True:
                if self.lines is not None:
                    is_burst = self.lines.read_bytes - answered_bytes >= BURST_BYTES
                    if is_burst or self.lines.pauses():
                        answered_bytes = self.lines.read_bytes
                        yield None
                if (item := next(items, None)) is None:
                    return
                yield item
        except UserError as error:
            raise UserError(name_flags(str(error))) from None
        finally:
            if self.lines is not None:
                self.lines.close()

    def check(self, value: Any, place: str) -> None:
        """Raises `UserError` for an example, or a value of a record, that holds what no example may.

        Args:
          value: the example or value; see `check_value`.
          place: its place, for messages.
        """
        try:
            check_value(value, place, self.source.format.max_text)
        except UserError as error:
            raise UserError(name_flags(str(error))) from None

    def _read_items(
        self, text_key: str, read_columns: Callable[[InputLines], Iterable[Any]] | None
    ) -> Iterator[Item]:
        """Yields the records in order; see `read`."""
        name, format = self.name, self.source.format
        match format.name:
            case "text":
                for number, line in files.read_lines(
                    self.require_lines(), keeps_errors=True, max_bytes=format.max_text
                ):
                    where, origin = f"{name}, line {number}", f"{name}:{number}"
                    if isinstance(line, UserError):
                        yield Item(where, origin, UserError(name_flags(str(line))))
                    else:
                        yield Item(where, origin, {text_key: line.rstrip("\r\n")})
                return
            case "conll" | "conllu":
                assert read_columns is not None
                for sentence in read_columns(self.require_lines()):
                    yield Item(sentence.origin, sentence.origin, sentence)
                return
            case "jsonl":
                records = json_lines.read_jsonl(
                    self.require_lines(), keeps_errors=True, max_bytes=format.max_text
                )
            case "csv" | "tsv":
                records = tables.read_table(
                    self.require_lines(),
                    format.name,
                    delimiter=format.delimiter,
                    keeps_errors=True,
                    max_bytes=format.max_text,
                    log=self.log,
                )
            case "files" if self.records is not None:
                records = self.records
            case "squad":
                records = read_squad_records(self.source)
            case _:
                records, _ = read_records(self.source, self.kind, self.log, labelled=False)
        for where, origin, value in records:
            if isinstance(value, UserError):
                value = UserError(name_flags(str(value)))
            elif not isinstance(value, dict):
                value = UserError(f"{where}: {describe_type(value)} where an object was expected")
            yield Item(where, origin, value)


def open_input(
    source: str, kind: ExampleKind, format: FileFormat, log: files.Log, *, keys: Collection[str]
) -> Input:
    """Opens an input, and logs its format if the content decides it.

    Args:
      source: a path, or "-" for stdin.
      kind: the kind of the examples.
      format: what the user says of the format.
      log: prints a line.
      keys: keys that records may have; they help to find the delimiter of a table.

    Raises:
      UserError: the source is not one file, cannot be read, or is not of the kind.
    """
    if source.startswith(("demo:", "hub:")) or format.name == "hub":
        raise UserError(f"--input {source}: answers are for files and stdin; save the text in a file")
    files.check_single_file(source)
    files.check_readable(source, "- for stdin")

    def log_with_flags(line: str) -> None:
        log(name_flags(line))

    try:
        [resolved] = formats.resolve_source(source, kind, format, log_with_flags, keys=keys)
    except UserError as error:
        raise UserError(name_flags(str(error))) from None
    reads_lines = resolved.format.name in READ_BY_LINE
    format = resolved.format
    lines = InputLines(source, format.encoding, format.max_text) if reads_lines else None
    return Input(resolved, kind, lines, log_with_flags)


def name_flags(text: str) -> str:
    """Returns a message about an input with flags in the place of settings: `--format` for `config.data.format`."""

    def name_settings(match: re.Match[str]) -> str:
        return re.sub(r"\.(\w+)", lambda name: INPUT_FLAGS.get(name[1], f"config.data.{name[1]}"), match[1])

    return re.sub(r"config\.data(\.\w+(?:(?:,| and| or) \.\w+)*)", name_settings, text)
