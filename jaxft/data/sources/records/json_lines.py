"""Reads records from JSON lines."""

import json
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.errors import UserError


def read_jsonl(source: str | files.Stream, encoding: str = encodings.UTF8) -> Iterator[tuple[str, str, Any]]:
    """Yields the JSON values of a file with one per line, each with its place and origin.

    Raises `UserError` with the line for other content.
    """
    name = files.source_name(source)
    for number, line in files.read_lines(source, encoding):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "; if the file is one JSON document, set config.data.format=json" if number == 1 else ""
            raise UserError(
                f"{where}, column {error.colno}: not valid JSON ({error.msg}); "
                f"JSON lines hold one object a line{hint}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: JSON that cannot be read ({error})") from None
        yield where, f"{name}:{number}", value
