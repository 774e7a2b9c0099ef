"""Converts doccano's exports: spans with or without relations, intents with slots, and categories of texts.

A span is `[start, end, label]` under `label` (`entities` next to the categories `cats` of intents). In projects with
relations it is `{"id", "label", "start_offset", "end_offset"}` under `entities`. Versions 1.4 and 1.5 wrote the text
under `data`. doccano counts UTF-16 code units (https://github.com/doccano/doccano/issues/2290).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import (
    AnnotationTool,
    Item,
    Reading,
    count_items,
    is_list_of_spans,
)
from jaxft.data.sources.records.record_values import JsonObject

_OUR_KEYS = {"spans", "tokens", "tags", "ner_tags"}


def _text_key(record: Any) -> str | None:
    keys = [key for key in ("text", "data") if isinstance(record, dict) and isinstance(record.get(key), str)]
    return keys[0] if keys else None


def _spans(record: JsonObject) -> list[Any] | None:
    """Returns the spans of a record, or None if it is not known to have some."""
    for key in ("label", "labels", "entities"):
        value = record.get(key)
        if is_list_of_spans(value):
            return value
        if isinstance(value, list) and all(
            isinstance(span, dict) and "start_offset" in span for span in value
        ):
            fields = {"start": "start_offset", "end": "end_offset", "label": "label"}
            return [{field: span.get(name) for field, name in fields.items()} for span in value]
    return None


def recognizes(records: Sequence[Any], noun: str) -> bool:
    """Returns True if all records have a text and doccano's spans, or its categories under `cats`."""
    if not all(_text_key(record) and not record.keys() & _OUR_KEYS for record in records):
        return False
    if noun == "text":
        return all(isinstance(record.get("cats"), list) and "entities" in record for record in records)
    return noun == "sentence" and all(_spans(record) is not None for record in records)


def convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields the records with `text` and `spans` or `label`, and logs what is not read."""
    relation_count = 0
    for where, origin, record in items:
        if key := _text_key(record):
            additions = {"text": record[key]}
            spans = _spans(record)
            if spans is not None:
                additions["spans"] = spans
            if "cats" in record:
                additions["label"] = record["cats"]
            relation_count += count_items(record.get("relations"))
            record = record | additions
        yield where, origin, record
    if relation_count and reading.labelled:
        reading.log_line(f"relations between spans are not read ({relation_count:,})")


TOOL = AnnotationTool("doccano", recognizes, convert)
