"""Reads records from tables of values that commas, tabs or other characters divide."""

import csv
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records.record_values import Record, check_columns
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
    log: files.Log = files.log_nothing,
) -> Iterator[Record]:
    """Yields the rows of a table with a header. All values are strings.

    It does not use pandas, which would turn the word "NA" into a missing value. Excel's line `sep=;` is skipped. A row
    that repeats the header, as in files that were joined, is left out and logged.

    Args:
      source: a path, "-" or an open stream.
      format: see `make_dialect`.
      delimiter: the character between values.
      encoding: the encoding of the file.
      keeps_errors: True if the error of a row is yielded in the place of its values, and False if it is raised.
      log: prints a line about the table.

    Raises:
      UserError: a row has not as many values as the header, the header has a name twice, or quotes are broken.
    """
    name = files.source_name(source)
    reader = csv.reader(
        (line for _, line in files.read_lines(source, encoding)), **make_dialect(format, delimiter)
    )
    header, first_line = None, 1
    has_joined_files = False
    quoted_line = ""  # the first line whose quotes may be those of CSV
    try:
        for row in reader:
            where, origin = f"{name}, line {first_line}", f"{name}:{first_line}"
            is_first, first_line = first_line == 1, reader.line_num + 1
            if not row or (is_first and row[0].startswith(SEPARATOR_LINE)):
                continue
            if header is None:
                header = row
                check_columns(header, where)
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
            if row[-1] == header[-1] and len(row) > 1 and [row[0].removeprefix("\ufeff"), *row[1:]] == header:
                if not has_joined_files:
                    log(f"warning: {where}: the header again, as in joined files; such rows are left out")
                has_joined_files = True
                continue
            if format == "tsv" and not quoted_line and any(map(_has_doubled_quotes, row)):
                quoted_line = where
            yield where, origin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {first_line}: not valid CSV ({error}); check its quotes") from None
    if quoted_line:
        log(
            f"warning: {quoted_line}: quotes around a value with doubled ones inside are read as text; if they are "
            "CSV's, set config.data.format=csv"
        )


def _has_doubled_quotes(value: str) -> bool:
    return value.startswith('"') and value.endswith('"') and '""' in value[1:-1]
