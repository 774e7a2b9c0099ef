"""Reads records from JSON lines."""

import json
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records.record_values import parse_json
from jaxft.errors import UserError


def read_jsonl(
    source: str | files.Stream,
    encoding: str = encodings.UTF8,
    *,
    keeps_errors: bool = False,
    max_bytes: int = files.UNBOUNDED,
) -> Iterator[tuple[str, str, Any]]:
    """Yields the JSON values of a file with one per line, each with its place and origin.

    Raises `UserError` with the line for other content and for a line of more than `max_bytes`; with `keeps_errors`,
    yields the error in the place of the value.
    """
    name = files.source_name(source)
    for number, line in files.read_lines(source, encoding, keeps_errors=keeps_errors, max_bytes=max_bytes):
        where, origin = f"{name}, line {number}", f"{name}:{number}"
        if isinstance(line, UserError):
            yield where, origin, line
        elif line.strip():
            try:
                value = _parse_line(line, where, number)
            except UserError as error:
                if not keeps_errors:
                    raise
                value = error
            yield where, origin, value


def _parse_line(line: str, where: str, number: int) -> Any:
    try:
        return parse_json(line)
    except json.JSONDecodeError as error:
        hint = "; if the file is one JSON document, set config.data.format=json" if number == 1 else ""
        raise UserError(
            f"{where}, column {error.colno}: not valid JSON ({error.msg}); JSON lines hold one object a line{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: JSON that cannot be read ({error})") from None
