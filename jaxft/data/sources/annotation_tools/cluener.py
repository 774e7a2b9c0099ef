"""Converts CLUENER's records: entities by type and text, with places whose end is inclusive.

`{"text": "...", "label": {"name": {"叶老桂": [[9, 11]]}}}`, see https://github.com/CLUEbenchmark/CLUENER2020.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError


def _is_label(value: Any) -> bool:
    """Returns True for `{type: {text: [[start, end], ...]}}`, which may be empty."""
    if not isinstance(value, dict) or not all(isinstance(places, dict) for places in value.values()):
        return False
    spans = [span for texts in value.values() for places in texts.values() for span in _as_list(places)]
    return all(isinstance(span, list) and [type(place) for place in span] == [int, int] for span in spans)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def recognizes(records: Sequence[Any], noun: str) -> bool:
    """Returns True if all records have a text and CLUENER's entities, at least one of them some."""
    return (
        noun == "sentence"
        and all(isinstance(record, dict) and isinstance(record.get("text"), str) for record in records)
        and all(_is_label(record.get("label")) for record in records)
        and any(record["label"] for record in records)
    )


def convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields the records with `spans`. Ends become exclusive, which the text of each entity confirms."""
    for where, origin, record in items:
        if (
            isinstance(record, dict)
            and _is_label(record.get("label"))
            and isinstance(record.get("text"), str)
        ):
            record = record | {"spans": list(_list_spans(record, where))}
        yield where, origin, record


def _list_spans(record: JsonObject, where: str) -> Iterator[JsonObject]:
    for label, texts in record["label"].items():
        for text, places in texts.items():
            for start, last in places:
                ends = [end for end in (last + 1, last) if record["text"][start:end] == text]
                if not ends or start < 0:
                    raise UserError(
                        f"{where}: {text!r} ({label}) does not stand at {start}..{last} of the text; `start` counts "
                        "characters from 0 and the end is inclusive"
                    )
                yield {"start": start, "end": ends[0], "label": label}


TOOL = AnnotationTool("CLUENER", recognizes, convert)
