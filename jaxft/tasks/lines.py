"""Makes lines of JSON and of tables."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def make_json_line(record: Mapping[str, Any]) -> bytes:
    """Returns a JSON line in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape but UTF-8 cannot encode
        return json.dumps(record).encode() + b"\n"


def prediction_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields JSON lines of texts, gold labels and predictions."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False) + "\n"


def error_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yields the lines of a tab-separated error list with a header. White space in a cell becomes one space."""
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(" ".join(str(row[name]).split()) for name in columns) + "\n"
