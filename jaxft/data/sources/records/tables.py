"""Reads records from tables of values that commas, tabs or other characters divide."""

import csv
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records.record_values import check_columns
from jaxft.errors import UserError

SEPARATOR_LINE = "sep="  # Excel's first line of a table, which names the delimiter

csv.field_size_limit(1 << 30)  # the default limit refuses texts over 131,072 characters


def make_dialect(format: str, delimiter: str) -> dict[str, Any]:
    """Returns the arguments of `csv.reader` for a table.

    Args:
      format: "csv" has double quotes around values that hold delimiters, quotes or line ends; "tsv" has no quotes, as
        in IANA's definition and GLUE's files.
      delimiter: the character between values.
    """
    if format == "tsv":
        return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE}
    return {"delimiter": delimiter, "strict": True}


def read_table(
    source: str | files.Stream,
    format: str = "csv",
    *,
    delimiter: str = ",",
    encoding: str = encodings.UTF8,
    keeps_errors: bool = False,
    max_bytes: int = files.UNBOUNDED,
    log: files.Log = files.log_nothing,
) -> Iterator[tuple[str, str, Any]]:
    """Yields the rows of a table with a header, with their places and origins. All values are strings.

    It does not use pandas, which would turn the word "NA" into a missing value. Excel's line `sep=;` is skipped. A row
    that repeats the header, as in files that were joined, is left out and logged.

    Args:
      source: a path, "-" or an open stream.
      format: see `make_dialect`.
      delimiter: the character between values.
      encoding: the encoding of the file.
      keeps_errors: True if the error of a row is yielded in the place of its values, and False if it is raised.
      max_bytes: the most bytes of a row.
      log: prints a line about the table.

    Raises:
      UserError: a row has not as many values as the header, or is too long; the header has a name twice, or quotes are
        broken.
    """
    name = files.source_name(source)
    header: list[str] = []
    has_joined_files = False
    quoted_line = ""  # the first line whose quotes may be those of CSV
    lines = files.read_lines(source, encoding, keeps_errors=keeps_errors, max_bytes=max_bytes)
    for first_line, row in _read_rows(lines, make_dialect(format, delimiter), name, max_bytes):
        where, origin = f"{name}, line {first_line}", f"{name}:{first_line}"
        if not row or (first_line == 1 and isinstance(row, list) and row[0].startswith(SEPARATOR_LINE)):
            continue
        if not header and isinstance(row, list):
            header = row
            check_columns(header, where)
            continue
        if isinstance(row, list) and len(row) != len(header):
            hint = f'put a value that holds {delimiter!r} between double quotes ("...")'
            if format == "tsv":
                hint = f"single {delimiter!r} divide values"
            row = UserError(
                f"{where}: {len(row)} fields where the header has {len(header)}; {hint}, or name the character "
                "between values in config.data.delimiter"
            )
        if isinstance(row, UserError):
            if not header or not keeps_errors:
                raise row
            yield where, origin, row
            continue
        if row[-1] == header[-1] and len(row) > 1 and [row[0].removeprefix("\ufeff"), *row[1:]] == header:
            if not has_joined_files:
                log(f"warning: {where}: the header again, as in joined files; such rows are left out")
            has_joined_files = True
            continue
        if format == "tsv" and not quoted_line and any(map(_has_doubled_quotes, row)):
            quoted_line = where
        yield where, origin, dict(zip(header, row, strict=True))
    if quoted_line:
        log(
            f"warning: {quoted_line}: quotes around a value with doubled ones inside are read as text; if they are "
            "CSV's, set config.data.format=csv"
        )


class _Lines:
    """The lines of a table for `csv.reader`. An error of a line is raised, and the next line is there after it."""

    def __init__(self, lines: Iterator[tuple[int, str | UserError]], name: str, max_bytes: int):
        self._lines, self._name, self._max_bytes = lines, name, max_bytes
        self.number = self._size = 0

    def begin_row(self) -> int:
        """Begins a row; returns the number of its first line."""
        self._size, self._first = 0, self.number + 1
        return self._first

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, UserError):
            raise line
        self._size += len(line)
        if self._size > self._max_bytes:
            where = f"{self._name}, line {self._first} to {self.number}"
            raise files.too_long_error(f"{where}: the row (is a quote not closed?) is", self._max_bytes)
        return line


def _read_rows(
    numbered_lines: Iterator[tuple[int, str | UserError]],
    dialect: dict[str, Any],
    name: str,
    max_bytes: int,
) -> Iterator[tuple[int, list[str] | UserError]]:
    """Yields the number of each row's first line, and its values or its error."""
    lines = _Lines(numbered_lines, name, max_bytes)
    reader = csv.reader(lines, **dialect)  # begins anew after an error
    while True:
        first_line = lines.begin_row()
        try:
            yield first_line, next(reader)
        except StopIteration:
            return
        except UserError as error:
            yield first_line, error
        except csv.Error as error:
            to_line = f" to {lines.number}" if lines.number > first_line else ""
            yield (
                first_line,
                UserError(f"{name}, line {first_line}{to_line}: not valid CSV ({error}); check its quotes"),
            )


def _has_doubled_quotes(value: str) -> bool:
    return value.startswith('"') and value.endswith('"') and '""' in value[1:-1]
