"""Makes lines of JSON and of tables."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# What a spreadsheet computes; no number, no sign alone.
_FORMULA = re.compile(r"[=+@-](?!\d*\.?\d*(?:e[+-]?\d+)?$).")


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


def escape_formula(cell: str) -> str:
    """Returns a cell of a table for people. Text that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def error_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yields the lines of a tab-separated error list with a header. White space in a cell becomes one space."""
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(escape_formula(" ".join(str(row[name]).split())) for name in columns) + "\n"
