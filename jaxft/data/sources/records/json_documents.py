"""Reads records from a JSON document: an array, an object with a list of records, or pandas' orientations."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import describe_type, parse_json
from jaxft.errors import UserError

_EXPECTED = (
    "expected an array of records, an object with a list of records under `data`, "
    "or what pandas' `to_json` writes"
)
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
      UserError: the document does not show where its records are.
    """
    if isinstance(document, list):
        return document, ""
    if not isinstance(document, dict):
        raise UserError(f"{name}: {describe_type(document)}; {_EXPECTED}")
    if document.keys() >= {
        "classes",
        "annotations",
    }:  # texts with offsets for spaCy, see `annotation_tools.spacy`
        return [document], ""
    columns, data, values = document.get("columns"), document.get("data"), list(document.values())
    if isinstance(data, list):
        if isinstance(columns, list):
            return [_name_values(row, columns, f"{name}, data[{n}]") for n, row in enumerate(data)], _orient(
                "split"
            )
        is_table = isinstance(document.get("schema"), dict)
        return data, _orient("table") if is_table else "the records are the list under 'data'"
    if (
        len(document) == 1
        and isinstance(values[0], list)
        and all(isinstance(item, dict) for item in values[0])
    ):
        return values[0], f"the records are the list under {next(iter(document))!r}"
    if values and all(isinstance(value, list) for value in values):
        return _join_columns({key: dict(enumerate(cells)) for key, cells in document.items()}, name), (
            "a list of values for each key"
        )
    if values and all(isinstance(value, dict) and value for value in values):
        if _has_numbers(document) and all(map(_has_numbers, values)):
            raise UserError(
                f"{name}: objects with numbers as keys in objects with numbers, which do not tell rows from columns; "
                "write it with to_json(orient='records')"
            )
        if all(map(_has_numbers, values)):
            return _join_columns(document, name), _orient("columns")
        return values, _orient("index")
    lists = [repr(key) for key, value in document.items() if isinstance(value, list)]
    hint = f"; if they are under {' or '.join(lists)}, write that list to a file" if lists else ""
    raise UserError(
        f"{name}: the records are not found in a JSON object with the keys {', '.join(map(repr, document))[:200]}; "
        f"{_EXPECTED}{hint}"
    )


def is_document(value: Mapping[str, Any]) -> bool:
    """Returns True if the object on the only line of a file is a document of records, and False for a record."""
    if isinstance(value.get("data"), list):
        return True
    values = list(value.values())
    are_objects = bool(values) and all(isinstance(item, dict) and item for item in values)
    return are_objects and (_has_numbers(value) or all(map(_has_numbers, values)))


def _has_numbers(value: Mapping[str, Any]) -> bool:
    """Returns True if all keys are whole numbers, as those of rows in pandas' orientations usually are."""
    return all(re.fullmatch(r"-?\d+", key) for key in value)


def _orient(name: str) -> str:
    return f"a table in pandas' orientation {name!r}"


def _name_values(row: Any, columns: Sequence[Any], where: str) -> dict[str, Any]:
    """Returns the record of a row of values. Raises `UserError` if it has not a value for each column."""
    if not isinstance(row, list) or len(row) != len(columns):
        actual = f"{len(row)} values" if isinstance(row, list) else describe_type(row)
        raise UserError(
            f"{where}: {actual} where a list of {len(columns)} values was expected, one for each column"
        )
    return dict(zip(map(str, columns), row, strict=True))


def _join_columns(columns: Mapping[str, Mapping[Any, Any]], name: str) -> list[dict[str, Any]]:
    """Returns the records of a value by row for each column. Raises `UserError` if columns have different rows."""
    first_key, first = next(iter(columns.items()))
    for key, cells in columns.items():
        if cells.keys() != first.keys():
            raise UserError(
                f"{name}: {len(cells)} values under {key!r} and {len(first)} under {first_key!r}, or of other rows; "
                "expected a value of each column for every row"
            )
    return [{key: cells[row] for key, cells in columns.items()} for row in first]
