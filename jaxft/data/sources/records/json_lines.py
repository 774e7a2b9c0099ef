"""Reads records from JSON lines."""

import json
from collections.abc import Iterator

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import Record, json_type_name
from jaxft.errors import UserError


def read_jsonl(source: str | files.Stream) -> Iterator[Record]:
    """Yields the JSON objects of a file with one per line. Raises `UserError` with the line for other content."""
    name = files.source_name(source)
    for number, line in files.read_lines(source):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            # The usual reason is a JSON document of several lines.
            hint = "; if the file is one JSON array, `jq -c '.[]'` makes lines of it" if number == 1 else ""
            raise UserError(
                f"{where}, column {error.colno}: not valid JSON ({error.msg}); "
                f"JSON lines hold one object a line{hint}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: JSON that cannot be read ({error})") from None
        if not isinstance(record, dict):
            raise UserError(
                f"{where}: a JSON {json_type_name(record)} where an object was expected; "
                "write one object a line (for one JSON array: `jq -c '.[]'`)"
            )
        yield where, f"{name}:{number}", record
