"""Makes lines of JSON and of tables."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# What a spreadsheet computes; no number, no sign alone.
_FORMULA = re.compile(r"[=+@-](?!\d*\.?\d*(?:e[+-]?\d+)?$).")
_PIECE_ITEMS = 1024  # items of an iterator that are written at a time


def render_json_line(record: Mapping[str, Any]) -> Iterator[bytes]:
    """Yields the pieces of a JSON line in UTF-8.

    Values may be iterators, also in an object that is a value. Each is written as a list, in pieces.
    """
    yield from _render_object(record)
    yield b"\n"


def _render_object(value: Mapping[str, Any]) -> Iterator[bytes]:
    opening = b"{"
    for key, item in value.items():
        if isinstance(item, Iterator) or _holds_iterators(item):
            yield opening + _encode(key) + b": "
            yield from _render_items(item) if isinstance(item, Iterator) else _render_object(item)
        else:
            yield opening + _encode({key: item})[1:-1]
        opening = b", "
    yield b"}" if value else b"{}"


def _holds_iterators(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Iterator) for item in value.values())


def _render_items(items: Iterator[Any]) -> Iterator[bytes]:
    opening = b"["
    while piece := list(itertools.islice(items, _PIECE_ITEMS)):
        yield opening + _encode(piece)[1:-1]
        opening = b", "
    yield b"[]" if opening == b"[" else b"]"


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, default=_describe_bytes).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape but UTF-8 cannot encode
        return json.dumps(value, default=_describe_bytes).encode()


def _describe_bytes(value: bytes) -> str:
    """Returns what stands for bytes, such as an image of a Parquet file, which JSON cannot hold."""
    return f"<{len(value):,} bytes>"


def complete_lists(value: Any) -> Any:
    """Returns a value in which iterators, also those in an object, are lists."""
    if isinstance(value, Iterator):
        return list(value)
    return {key: complete_lists(item) for key, item in value.items()} if _holds_iterators(value) else value


def prediction_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields JSON lines of texts, gold labels and predictions."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False) + "\n"


def escape_formula(cell: str) -> str:
    """Returns a cell of a table for people. Text that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def error_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yields the lines of a tab-separated error list with a header. White space in a cell becomes one space."""
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(escape_formula(" ".join(str(row[name]).split())) for name in columns) + "\n"
