"""Reads records from a JSON document: an array, an object with a list of records, or pandas' orientations."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import json_type_name, parse_json
from jaxft.errors import UserError

_EXPECTED = "expected an array of records, an object with a list of records under `data`, or what pandas' `to_json` writes"

_LINES_HINT = "if each line of the file is a record, set config.data.format=jsonl"


def read_json_document(
    source: str | files.Stream, encoding: str, log: files.Log
) -> Iterator[tuple[str, str, Any]]:
    """Yields the records of one JSON document, which is read completely, each with its place and origin.

    Logs where the records are in the document, unless it is an array of them. A record may be a JSON value of any type.
    """
    name = files.source_name(source)
    items, description = list_items(load_document(source, encoding), name)
    if description:
        log(f"{name}: {description}")
    for number, item in enumerate(items, 1):
        yield f"{name}, record {number}", f"{name}:{number}", item


def load_document(source: str | files.Stream, encoding: str, hint: str = _LINES_HINT) -> Any:
    """Returns the value of a JSON document.

    Raises `UserError` with line and column, and with `hint` at its end, if it is not valid JSON.
    """
    name = files.source_name(source)
    try:
        return parse_json("".join(line for _, line in files.read_lines(source, encoding)))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); {hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: JSON that cannot be read ({error})") from None


def list_items(document: Any, name: str) -> tuple[list[Any], str]:
    """Returns the records of a JSON document, and in words where they are in it ("" for an array).

    Args:
      document: the value of the document.
      name: its name, for messages.

    Raises:
      UserError: it is not known where the document's records are.
    """
    if isinstance(document, list):
        if document and all(isinstance(row, list) for row in document):
            return document, ""
        return document, ""
    if not isinstance(document, dict):
        raise UserError(f"{name}: a JSON {json_type_name(document)}; {_EXPECTED}")
    if not document:
        return [], ""
    if document.keys() >= {
        "classes",
        "annotations",
    }:  # texts with offsets for spaCy, see `annotation_tools.spacy`
        return [document], ""
    columns, data = document.get("columns"), document.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [_name_values(row, columns, name, index) for index, row in enumerate(data)], _orientation(
            "split"
        )
    if isinstance(data, list):
        is_table = isinstance(document.get("schema"), dict)
        return data, _orientation("table") if is_table else "the records are the list under 'data'"
    return _list_oriented(document, name)


def _list_oriented(document: dict, name: str) -> tuple[list[Any], str]:
    """Returns the records of an object of objects or lists, and its description; see `list_items`."""
    values = list(document.values())
    if all(isinstance(value, dict) for value in values):
        if _has_numbers(values[0]) and not _has_numbers(document):
            return _join_columns({key: list(value.values()) for key, value in document.items()}, name), (
                _orientation("columns")
            )
        return values, _orientation("index")
    if all(isinstance(value, list) for value in values):
        objects = [key for key, value in document.items() if value and isinstance(value[0], dict)]
        if len(objects) == 1 and len(document) == 1:
            return document[objects[0]], f"the records are the list under {objects[0]!r}"
        if not objects and len({len(value) for value in values}) == 1:
            return _join_columns(document, name), "a list for each column"
    raise UserError(
        f"{name}: a JSON object with the keys {', '.join(map(repr, document))}"[:200] + f"; {_EXPECTED}"
    )


def is_document(value: Mapping[str, Any]) -> bool:
    """Returns True if the object on the only line of a file is a document of records, and False for a record."""
    values = list(value.values())
    if isinstance(value.get("data"), list):
        return True
    return (
        bool(values)
        and all(isinstance(item, dict) for item in values)
        and (_has_numbers(values[0]) or _has_numbers(value))
    )


def _has_numbers(value: Mapping[str, Any]) -> bool:
    """Returns True if all keys are whole numbers, as those of rows in pandas' orientations usually are."""
    return all(re.fullmatch(r"-?\d+", key) for key in value)


def _orientation(name: str) -> str:
    return f"a table in pandas' orientation {name!r}"


def _name_values(row: list, columns: list, name: str, index: int) -> dict[str, Any]:
    if len(row) != len(columns):
        raise UserError(
            f"{name}, record {index + 1}: {len(row)} values for {len(columns)} columns; mend the file"
        )
    return dict(zip(map(str, columns), row, strict=True))


def _join_columns(columns: Mapping[str, list], name: str) -> list[dict[str, Any]]:
    """Returns the records of a list of values for each column."""
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(
            f"{name}: columns of different lengths, {lengths}; expected a value of each for every record"
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
