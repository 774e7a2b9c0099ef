"""Parses records into sentences, from tokens and their tags or from text and character spans."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources.records import record_values
from jaxft.data.sources.tagged_sentences.sentence import (
    Sentence,
    TextWords,
    WordOffsets,
    split_words,
    tag_words,
)
from jaxft.data.sources.tagged_sentences.span_offsets import DEFAULT_RULES, SpanReader, WrittenSpan
from jaxft.errors import UserError, list_names

# Role of a record's value -> its usual keys, in the order in which they are tried.
KEYS = {
    "tokens": ("tokens",),
    "tags": ("tags", "ner_tags"),
    "text": ("text",),
    "spans": ("spans", "entities"),
    "sentence": (),  # of a table with a word a row; see `token_tables`
}


def parse_cells(
    rows: Iterator[record_values.Record], columns: Mapping[str, str]
) -> Iterator[record_values.Record]:
    """Yields the rows of a table with lists in place of text. Lists are JSON or separated by spaces, spans are JSON."""
    list_keys = {columns.get(role, key) for role in ("tokens", "tags", "spans") for key in KEYS[role]}
    for where, origin, record in rows:
        lists = {
            key: _parse_csv_list(record[key], where, key)
            for key in list_keys & record.keys()
            if isinstance(record[key], str)
        }
        yield where, origin, record | lists


def _parse_csv_list(cell: str, where: str, key: str) -> list[Any]:
    cell = cell.strip()
    if cell.startswith("[") and cell.endswith("]"):
        try:
            return record_values.parse_json(cell)
        except json.JSONDecodeError:
            if re.match(r"\[\s*(['\"{]|\d+\s*[,\]])", cell):
                raise UserError(
                    f"{where}, key {key!r}: a list that is not JSON, {cell[:60]!r}; "
                    "write it with json.dumps, or as words divided by spaces"
                ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}, key {key!r}: a list that cannot be read ({error})") from None
    return [item for item in cell.split(" ") if item]


def find_tag_names(features: Mapping[str, Any], columns: Mapping[str, str]) -> list[str] | None:
    """Returns the names of the integer tags, if the schema has them."""
    for key in [columns["tags"]] if "tags" in columns else KEYS["tags"]:
        names = getattr(getattr(features.get(key), "feature", None), "names", None)
        if names:
            return list(names)
    return None


def parse_sentences(
    rows: Iterator[record_values.Record],
    *,
    tagged: bool,
    columns: Mapping[str, str],
    tag_names: list[str] | None = None,
    span_reader: SpanReader | None = None,
) -> Iterator[Sentence]:
    """Parses records into sentences. Each sentence is its own document.

    An empty record is dropped if `tagged`; otherwise it is kept, so that predictions stay aligned.

    Args:
      rows: records.
      tagged: True if tags are read.
      columns: role -> key of records, if it differs from `KEYS`.
      tag_names: the names of integer tags.
      span_reader: reads the spans of a data set; None for a reader with the usual rules.

    Raises:
      UserError: a record is invalid; the message has its place and key.
    """
    document = 0
    span_reader = span_reader or SpanReader(DEFAULT_RULES)
    for row in rows:
        sentence = _parse_sentence(row, document, tagged, columns, tag_names, span_reader)
        if sentence.words or not tagged:
            yield sentence
            document += 1


def _parse_sentence(
    row: record_values.Record,
    document: int,
    tagged: bool,
    columns: Mapping[str, str],
    tag_names: list[str] | None,
    span_reader: SpanReader,
) -> Sentence:
    where, origin, record = row
    key_candidates = {role: [columns[role]] if role in columns else usual for role, usual in KEYS.items()}
    keys = {
        role: next((key for key in candidates if record.get(key) is not None), None)
        for role, candidates in key_candidates.items()
    }

    if keys["text"] and keys["tokens"] and _holds_objects(record[keys["tokens"]]):
        keys["tokens"] = None  # Prodigy's and spaCy's tokens are objects with places in the text
    # If a record has tokens and text, its tags belong to the tokens. Spans count only if there are no tags.
    if keys["tokens"] and (not tagged or keys["tags"] or not keys["spans"]):
        words = _require_strings(record[keys["tokens"]], where, keys["tokens"])
        if not tagged:
            return Sentence(words, None, document, origin)
        if not keys["tags"]:
            raise UserError(_describe_missing(record, where, "tags", columns, tagged))
        tags = _parse_tags(record[keys["tags"]], where, keys["tags"], tag_names)
        if len(tags) != len(words):
            raise UserError(
                f"{where}: {len(words)} items in {keys['tokens']!r} but {len(tags)} in {keys['tags']!r}; "
                "give each token one tag"
            )
        return Sentence(words, tags, document, origin)

    if not keys["text"]:
        raise UserError(_describe_missing(record, where, "tokens (or text)", columns, tagged))
    text = record[keys["text"]]
    record_values.check_string(text, where, keys["text"])
    if not tagged:
        offsets = WordOffsets(text)
        return Sentence(TextWords(text, offsets), None, document, origin, text, offsets)
    key = keys["spans"] or next((key for key in key_candidates["spans"] if key in record), None)
    if key is None:
        raise UserError(_describe_missing(record, where, "spans", columns, tagged))
    written = [] if record[key] is None else _parse_spans(record[key], where, key)
    text_words = split_words(text)
    places, tags = tag_words(text_words, span_reader.read(text, text_words, written, where))
    return Sentence([text[start:end] for start, end in places], tags, document, origin, text, places)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _describe_missing(
    record: record_values.JsonObject, where: str, role: str, columns: Mapping[str, str], tagged: bool
) -> str:
    renamed = f" (with columns {dict(columns)})" if columns else ""
    expected = "`tokens` or `text`, a key that the run was trained on"
    if tagged:
        expected = "`tokens` and `tags`, or `text` and `spans`, or name the keys in config.data.columns"
    keys = record_values.describe_keys(record)
    return f"{where}: no {role} in keys {keys}{renamed}; expected {expected}"


def _require_strings(value: Any, where: str, key: str) -> list[str]:
    if not isinstance(value, list):
        raise UserError(
            f"{where}, key {key!r}: {record_values.describe_type(value)} where a list of strings was expected"
        )
    for index, item in enumerate(value):
        record_values.check_string(item, where, key, index)
    return value


def _parse_tags(value: Any, where: str, key: str, tag_names: list[str] | None) -> list[str]:
    are_numbers = isinstance(value, list) and value and all(type(item) is int for item in value)
    if not are_numbers:
        return _require_strings(value, where, key)
    if tag_names is None:
        raise UserError(
            f"{where}, key {key!r}: tags are numbers and their names are not in the data; "
            'write the names ("O", "B-PER", ...)'
        )
    if not all(0 <= item < len(tag_names) for item in value):
        raise UserError(
            f"{where}, key {key!r}: a tag number is outside 0..{len(tag_names) - 1} ({list_names(tag_names)})"
        )
    return [tag_names[item] for item in value]


def _parse_spans(value: Any, where: str, key: str) -> list[WrittenSpan]:
    if not isinstance(value, list):
        raise UserError(
            f"{where}, key {key!r}: {record_values.describe_type(value)} where a list of spans was expected"
        )
    spans = []
    for index, item in enumerate(value):
        fields, text = item, None
        if isinstance(item, dict):
            fields, text = [item.get(field) for field in ("start", "end", "label")], item.get("text")
        is_span = isinstance(fields, list) and [type(field) for field in fields] == [int, int, str]
        if not is_span or not fields[2].strip():
            raise UserError(
                f"{where}, key {key!r}, item {index}: {json.dumps(item, default=str)[:80]} is not a span; "
                'expected {"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"]'
            )
        if fields[2] == "O":
            raise UserError(
                f"{where}, key {key!r}, item {index}: a span labelled 'O', which is the tag of words outside of "
                "all spans; leave the span out, or give its label another name"
            )
        record_values.check_name(fields[2], f"{where}, key {key!r}, item {index}")
        start, end, label = fields
        spans.append(WrittenSpan(start, end, label, text if isinstance(text, str) else None))
    return spans
