"""Reads records from tables of comma- or tab-separated values."""

import csv
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

# Format -> arguments of `csv.reader`. Tab-separated values have no quotes, as in IANA's definition and GLUE's files.
DIALECTS: dict[str, dict[str, Any]] = {
    "csv": {"delimiter": ",", "strict": True},
    "tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


def read_csv(source: str | files.Stream, format: str = "csv") -> Iterator[Record]:
    """Yields the rows of a table with a header; commas ("csv") or tabs ("tsv") separate values, which are strings.

    It does not use pandas, which would turn the word "NA" into a missing value.
    """
    name = files.source_name(source)
    csv.field_size_limit(1 << 30)  # the default limit refuses texts over 131,072 characters
    reader = csv.reader((line for _, line in files.read_lines(source)), **DIALECTS[format])
    header, first_line = None, 1
    try:
        for row in reader:
            where, origin = f"{name}, line {first_line}", f"{name}:{first_line}"
            first_line = reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = row
                continue
            if len(row) != len(header):
                if format == "csv":
                    hint = 'put a field that holds commas between double quotes ("...")'
                else:
                    hint = "fields are divided by single tabs"
                raise UserError(f"{where}: {len(row)} fields where the header has {len(header)}; {hint}")
            yield where, origin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {first_line}: not valid CSV ({error}); check its quotes") from None
