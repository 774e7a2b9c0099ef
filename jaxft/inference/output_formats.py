"""Renders answers in the format of the input: JSON lines, rows of a table or CoNLL columns."""

import csv
import io
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources.formats import AUTO, FileFormat
from jaxft.data.sources.records.tables import make_dialect
from jaxft.errors import UserError
from jaxft.inference.input_records import InputLines, Item
from jaxft.tasks.lines import render_json_line

ERROR = "error"  # the key of a record's error


def choose_names(
    keys: Iterable[str], used: Container[str], where: str, *, renames: bool = True
) -> dict[str, str]:
    """Returns for each key of an answer its name in a record that has the keys `used`.

    The name is the key, or `predicted_KEY` if the record has the key.

    Args:
      keys: the keys of the answer.
      used: the keys of the record.
      where: the place of the record, for messages.
      renames: False if a used key is an error.

    Raises:
      UserError: an answer would overwrite a value of the record.
    """
    names = {key: key if key not in used or not renames else f"predicted_{key}" for key in keys}
    for key, name in names.items():
        if name in used or key.startswith("predicted_") and name != key:
            raise UserError(
                f"{where}: the key {key!r} is there already, and the answer would overwrite it; rename or remove it"
            )
    return names


class RecordWriter:
    """Writes a JSON object per record: the record with the answer added.

    A record of JSON lines that cannot be read is written as `{"line": TEXT, "error": MESSAGE}`.
    """

    def __init__(
        self,
        lines: InputLines | None,
        *,
        extend: Callable[[Item, Any, Any], Mapping[str, Any]],
        keeps_blank_lines: bool = False,
    ):
        """Makes a writer.

        Args:
          lines: the lines of the input; None if it is not read by line.
          extend: returns the keys and values of the output for an item, its example and its answer.
          keeps_blank_lines: True if the lines between records are written too.
        """
        self._lines, self._extend, self._keeps_blank_lines = lines, extend, keeps_blank_lines

    def render(self, item: Item, example: Any, answer: Any) -> Iterator[bytes]:
        """Yields the pieces of the line of a record with its answer."""
        before, _ = self._take(item)
        yield from before
        yield from render_json_line(self._extend(item, example, answer))

    def render_error(self, item: Item, error: UserError) -> Iterator[bytes]:
        """Yields the pieces of the line of a record with its error."""
        before, line = self._take(item)
        yield from before
        if isinstance(item.value, dict) and ERROR not in item.value:
            record = item.value | {ERROR: str(error)}
        else:
            record = {"line": line.decode("utf-8", "replace").rstrip("\r\n"), ERROR: str(error)}
        yield from render_json_line(record)

    def render_rest(self) -> list[bytes]:
        """Returns the blank lines after the last record, if they are kept."""
        rest = self._lines.take_rest() if self._lines is not None else []
        return rest if self._keeps_blank_lines else []

    def _take(self, item: Item) -> tuple[list[bytes], bytes]:
        """Takes the lines before an item, and the item's first line. Returns those that are written, and the first."""
        if self._lines is None:
            return [], b""
        before = self._lines.take_until(item.origin)
        [line] = self._lines.take(1)
        return before if self._keeps_blank_lines else [], line


class ColumnWriter:
    """Writes CoNLL columns with a column for the predicted tags. All other lines stay."""

    def __init__(self, lines: InputLines, delimiter: str = AUTO):
        """Takes the lines of the input, and what divides columns ("auto" for what a line shows)."""
        self._lines, self._delimiter = lines, delimiter

    def render(self, item: Item, sentence: Any, answer: Mapping[str, Any]) -> Iterator[bytes]:
        """Yields the lines of a sentence with another column, divided like the others, or by a tab after only one."""
        yield from self._lines.take_until(item.origin)
        next_number = int(item.origin.rpartition(":")[2])
        for number, tag in zip(sentence.line_numbers, answer["predicted_tags"], strict=True):
            *between, line = self._lines.take(number - next_number + 1)
            yield from between
            yield self._add_column(line, tag)
            next_number = number + 1

    def render_error(self, item: Item, error: UserError) -> list[bytes]:
        """Raises the error, because columns have no place for it."""
        raise error

    def render_rest(self) -> list[bytes]:
        """Returns the lines after the last sentence."""
        return self._lines.take_rest()

    def _add_column(self, line: bytes, cell: str) -> bytes:
        text = line.rstrip(b"\r\n")
        divider = self._delimiter.encode()
        if self._delimiter == AUTO:
            divider = b" " if b"\t" not in text and b" " in text.strip(b" ") else b"\t"
        return text + divider + cell.encode() + line[len(text) :]


class TableWriter:
    """Writes the rows of a table with a column for each key of the answer, and one for errors if they are recorded.

    A row that cannot be read becomes a row with its text in the first column.
    """

    def __init__(
        self,
        lines: InputLines,
        format: FileFormat,
        keys: Sequence[str],
        *,
        format_cell: Callable[[Any], str],
        has_errors: bool,
    ):
        """Makes a writer.

        Args:
          lines: the lines of the input.
          format: the format of the table.
          keys: the keys of an answer.
          format_cell: returns the text of a cell for a value of an answer.
          has_errors: True if there is a column for errors.
        """
        self._lines, self._keys, self._format_cell = lines, keys, format_cell
        self._delimiter, self._dialect = format.delimiter, make_dialect(format.name, format.delimiter)
        self._quotes = format.name == "csv"
        self._has_errors = has_errors
        self._header: list[str] = []  # empty until the header is written

    def render(self, item: Item, example: Any, answer: Mapping[str, Any]) -> list[bytes]:
        """Returns the row of a record with the cells of its answer."""
        before = self._take_before(item)
        cells = [*map(self._format_cell, answer.values()), *([""] if self._has_errors else [])]
        return [*before, *self._extend(self._take_row(), cells)]

    def render_error(self, item: Item, error: UserError) -> list[bytes]:
        """Returns the row of a record with its error."""
        before = self._take_before(item)
        cells = ["" for _ in self._keys] + [str(error)]
        if isinstance(item.value, dict):
            return [*before, *self._extend(self._take_row(), cells)]
        [line] = self._lines.take(1)
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        empty = [""] * (len(self._header) - 1)
        return [*before, (self._join([text, *empty, *cells]) + "\n").encode()]

    def render_rest(self) -> list[bytes]:
        """Returns the blank lines after the last row."""
        return [line for line in self._lines.take_rest() if not line.strip()]

    def _take_before(self, item: Item) -> list[bytes]:
        """Takes the lines before a row. Returns the header, with columns added, and blank lines."""
        lines = self._lines.take_until(item.origin)
        if self._header:
            return [line for line in lines if not line.strip()]
        filled = [index for index, line in enumerate(lines) if line.strip(b"\xef\xbb\xbf \t\r\n")]
        first, end = filled[0], filled[-1] + 1
        if lines[first].removeprefix(b"\xef\xbb\xbf").startswith(b"sep=") and end > first + 1:
            first += 1  # Excel's line that names the delimiter
        text = b"".join(lines[first:end]).decode("utf-8-sig")
        [self._header] = csv.reader(io.StringIO(text, newline=""), **self._dialect)
        names = list(choose_names(self._keys, self._header, item.where).values())
        if self._has_errors:
            names += choose_names([ERROR], [*self._header, *names], item.where, renames=False).values()
        return lines[:first] + self._extend(lines[first:end], names) + lines[end:]

    def _take_row(self) -> list[bytes]:
        """Takes the lines of the next row, which are several if a quoted cell has line ends."""
        lines: list[bytes] = []

        def take_lines() -> Iterator[str]:
            while True:
                lines.extend(self._lines.take(1))
                yield lines[-1].decode()

        next(csv.reader(take_lines(), **self._dialect))
        return lines

    def _extend(self, lines: list[bytes], cells: Iterable[str]) -> list[bytes]:
        """Returns the lines of a row with cells added."""
        row = b"".join(lines)
        text = row.rstrip(b"\r\n")
        line_end = row[len(text) :] or b"\n"
        return [text + (self._delimiter + self._join(cells)).encode() + line_end]

    def _join(self, cells: Iterable[str]) -> str:
        """Returns cells as a table has them. Without quotes, white space in a cell becomes one space."""
        if not self._quotes:
            return self._delimiter.join(" ".join(cell.split()) for cell in cells)
        row = io.StringIO()
        csv.writer(row, delimiter=self._delimiter, lineterminator="").writerow(cells)
        return row.getvalue()
