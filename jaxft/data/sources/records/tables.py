"""Reads records from tables of values that commas, tabs or other characters divide."""

import csv
from collections.abc import Collection, Iterator
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

DELIMITERS = (",", "\t", ";", "|")  # those that are recognised, the most usual first
_SEPARATOR_LINE = "sep="  # Excel's first line of a table, which names the delimiter

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
) -> Iterator[Record]:
    """Yields the rows of a table with a header. All values are strings.

    It does not use pandas, which would turn the word "NA" into a missing value. Excel's line `sep=;` is skipped.

    Args:
      source: a path, "-" or an open stream.
      format: see `make_dialect`.
      delimiter: the character between values.
      encoding: the encoding of the file.
      keeps_errors: True if the error of a row is yielded in the place of its values, and False if it is raised.

    Raises:
      UserError: a row has not as many values as the header, the header has a name twice, or quotes are broken.
    """
    name = files.source_name(source)
    reader = csv.reader(
        (line for _, line in files.read_lines(source, encoding)), **make_dialect(format, delimiter)
    )
    header, first_line = None, 1
    try:
        for row in reader:
            where, origin = f"{name}, line {first_line}", f"{name}:{first_line}"
            is_first, first_line = first_line == 1, reader.line_num + 1
            if not row or (is_first and row[0].startswith(_SEPARATOR_LINE)):
                continue
            if header is None:
                header = row
                _check_header(header, where)
                continue
            if len(row) != len(header):
                hint = f'put a value that holds {delimiter!r} between double quotes ("...")'
                if format == "tsv":
                    hint = f"single {delimiter!r} divide values"
                error = UserError(
                    f"{where}: {len(row)} fields where the header has {len(header)}; {hint}, or name the character "
                    "between values in config.data.delimiter"
                )
                if not keeps_errors:
                    raise error
                yield where, origin, error
                continue
            yield where, origin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {first_line}: not valid CSV ({error}); check its quotes") from None


def _check_header(header: list[str], where: str) -> None:
    """Raises `UserError` if a name stands twice in a header."""
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated:
        places = [str(index + 1) for index, name in enumerate(header) if name == repeated[0]]
        raise UserError(
            f"{where}: the header has {repeated[0]!r} in columns {' and '.join(places)}; give each column a name of "
            "its own"
        )


def sniff_delimiter(text: str, keys: Collection[str], usual: str) -> str:
    """Returns the delimiter of a table.

    Excel's first line `sep=;` names it. Else it is a character that divides the header and all rows into as many values,
    two or more; if several do, one that gives the header one of the names `keys`, then `usual`.

    Args:
      text: the beginning of the file. Its last line may be cut.
      keys: names that the header should have.
      usual: the delimiter if none of `DELIMITERS` fits.
    """
    if text.startswith(_SEPARATOR_LINE):
        return text.removeprefix(_SEPARATOR_LINE)[:1] or usual

    def score(delimiter: str) -> tuple[bool, bool, bool, int]:
        rows = _parse_sample(text, delimiter)
        width = len(rows[0]) if rows else 0
        is_even = width > 1 and all(len(row) == width for row in rows)
        names_key = width > 1 and not set(keys).isdisjoint(rows[0])
        return names_key, is_even, delimiter == usual, width

    best = max((usual, *DELIMITERS), key=score)
    return best if any(score(best)[:2]) else usual


def _parse_sample(text: str, delimiter: str) -> list[list[str]]:
    """Returns the complete rows of the beginning of a table, without empty ones."""
    lines = text.splitlines(keepends=True)
    if len(lines) > 1 and not text.endswith(("\n", "\r")):
        lines.pop()
    rows = []
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            rows.append(row)
    except csv.Error:
        pass  # a quote that the sample does not close
    return [row for row in rows if row]
