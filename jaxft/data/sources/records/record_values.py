"""Defines `Record`, and checks the values of records."""

import ast
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jaxft.errors import UserError

MAX_NAME = 200  # characters in the name of a label
MAX_KEYS = 30  # of a record that a message shows
MAX_DEPTH = 100  # of lists and objects in JSON; code that walks through them calls itself as often
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

JsonObject: TypeAlias = dict[str, Any]  # an object of JSON, or a row of a table; its readers check the values

# A record with its place: ("data.jsonl, line 3" for messages, origin "data.jsonl:3", keys and values).
Record = tuple[str, str, JsonObject]


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of a JSON text. Raises `ValueError` for a key that stands twice; one value would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {repeated!r} twice; leave one out")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_make_object)


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text as `json.loads`, but refuses what other code could not take.

    Raises `ValueError` (or `RecursionError`) for text that is not JSON, an object with a key twice, and values nested
    more than `MAX_DEPTH` deep.
    """
    value = _DECODER.decode(text)
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"lists or objects nested more than {MAX_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    """Returns whether lists and objects are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        items = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in items if isinstance(item, dict | list)]
    return bool(level)


def _parse_python(text: str) -> Any:
    """Returns the value of a Python literal. Raises as `ast.literal_eval` does, and for numbers that none can print."""
    value = ast.literal_eval(text)
    repr(value)
    return value


def parse_cell(text: str) -> Any:
    """Returns the value that a table's cell spells in JSON, or in Python as pandas writes lists; None if in neither."""
    for parse in (parse_json, _parse_python):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(text)
    return None


def describe_keys(record: Mapping[str, Any]) -> str:
    """Returns the keys of a record for messages, at most `MAX_KEYS` of them."""
    keys = sorted(map(str, record))
    return f"{keys[:MAX_KEYS]}" + (f" and {len(keys) - MAX_KEYS:,} more" if len(keys) > MAX_KEYS else "")


def require_value(record: Mapping[str, Any], key: str, where: str, hint: str) -> Any:
    """Returns the value under a key. If the record lacks the key, raises `UserError` with `hint` at its end."""
    if key not in record:
        raise UserError(f"{where}: no key {key!r} in {describe_keys(record)}; {hint}")
    return record[key]


def check_string(value: Any, where: str, key: str, index: int | None = None) -> None:
    """Raises `UserError` for a value that is not text. `where`, `key` and an item's `index` name its place."""
    place = f"{where}, key {key!r}" + ("" if index is None else f", item {index}")
    if not isinstance(value, str):
        hint = "; leave out what has none" if value is None else ""
        raise UserError(f"{place}: {describe_type(value)} where a string was expected{hint}")
    if not value.isascii():
        check_surrogates(value, place)


def check_surrogates(text: str, place: str) -> None:
    """Raises `UserError` for half a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: half a surrogate pair at character {error.start}, which is no text; remove it"
        ) from None


def check_finite(number: float, place: str) -> None:
    """Raises `UserError` for NaN and infinity."""
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{place}: the number {number}; expected a finite one")


def check_name(name: str, place: str, most: int = MAX_NAME) -> None:
    """Raises `UserError` for a label that no report, card or file could show.

    That is one of more than `most` characters, or with a control character.
    """
    if len(name) > most:
        raise UserError(
            f"{place}: a name of {len(name):,} characters, {name[:40]!r}...; labels have at most {MAX_NAME}, so name "
            "the key of the labels if this is not it"
        )
    if odd := _CONTROL.search(name):
        raise UserError(f"{place}: the name {name[:60]!r} has the control character {odd[0]!r}; remove it")


def check_columns(names: Sequence[str], where: str) -> None:
    """Raises `UserError` if two columns of a table have one name. Columns without a name are never read."""
    repeated = [name for name in dict.fromkeys(names) if name.strip() and names.count(name) > 1]
    if repeated:
        numbers = [str(number) for number, name in enumerate(names, 1) if name == repeated[0]]
        raise UserError(
            f"{where}: columns {' and '.join(numbers)} have the name {repeated[0]!r}, so that one would be lost; "
            "give each column a name of its own"
        )


def describe_type(value: Any) -> str:
    """Returns what a value is, in the terms of JSON, for messages: "null", "bytes", "an object", "a number"."""
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        bytes: "bytes",
        list: "a list",
    }
    return kinds.get(type(value), "an object" if isinstance(value, dict) else f"a {type(value).__name__}")
