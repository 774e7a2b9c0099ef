"""Reads questions that are grouped by context: SQuAD's articles and paragraphs, and simpletransformers' contexts.

simpletransformers (https://simpletransformers.ai/docs/qa-data-formats/) takes a list of SQuAD's paragraphs:
`[{"context": ..., "qas": [{"id", "question", "is_impossible", "answers"}, ...]}, ...]`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading
from jaxft.data.sources.records.record_values import JsonObject, Record, describe_type, require_value
from jaxft.errors import UserError

LAYOUT = "SQuAD's JSON is data > paragraphs (context, qas) > qas (id, question, answers)"


def list_questions(where: str, origin: str, value: Any) -> Iterator[Record]:
    """Yields the questions of an article, which has `paragraphs`, or of a paragraph, which has `context` and `qas`.

    Any other object is a question.

    Args:
      where: the place of the value, for messages.
      origin: the origin of the value.
      value: a JSON value.

    Raises:
      UserError: a value is not an object, or an object lacks a key.
    """
    record = require_object(value, where)
    if "paragraphs" in record:
        for item, path in list_items(record, "paragraphs", where):
            require_object(item, f"{where}{path}")
            for key in ("context", "qas"):
                require_value(item, key, f"{where}{path}", LAYOUT)
            yield from list_questions(f"{where}{path}", f"{origin}{path}", item)
    elif "qas" in record:
        context = require_value(record, "context", where, LAYOUT)
        for item, path in list_items(record, "qas", where):
            question = {"context": context} | require_object(item, f"{where}{path}")
            yield f"{where}{path}", f"{origin}{path}", question
    else:
        yield where, origin, record


def require_object(value: Any, where: str) -> JsonObject:
    """Returns a JSON object. Raises `UserError` for another value."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {describe_type(value)} where an object was expected; {LAYOUT}")
    return value


def list_items(record: JsonObject, key: str, where: str) -> Iterator[tuple[Any, str]]:
    """Returns the items of the list under `key`, each with its path from the record, such as ".qas[3]"."""
    value = require_value(record, key, where, LAYOUT)
    if not isinstance(value, list):
        raise UserError(f"{where}, key {key!r}: {describe_type(value)} where a list was expected; {LAYOUT}")
    return ((item, f".{key}[{index}]") for index, item in enumerate(value))


def _recognizes(values: Sequence[Any], noun: str) -> bool:
    """Returns True if records are groups of questions."""
    return noun == "question" and any(
        isinstance(value, dict) and not {"paragraphs", "qas"}.isdisjoint(value) for value in values
    )


def _convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields an item for each question."""
    for where, origin, value in items:
        yield from list_questions(where, origin, value)


TOOL = AnnotationTool(
    "questions grouped by context, as SQuAD and simpletransformers have them", _recognizes, _convert
)
