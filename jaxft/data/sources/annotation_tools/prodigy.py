"""Converts Prodigy's annotations: spans over tokens, categories and choices, each with an answer.

`answer` is "accept", "reject" or "ignore". Spans have offsets in characters next to those in tokens. A choice lists the
ids of the chosen options under `accept`. See https://prodi.gy/docs/api-interfaces.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading, count_items
from jaxft.data.sources.records.record_values import JsonObject

_ANSWERS = ("accept", "reject", "ignore")
_KEYS = {
    "_input_hash",
    "_task_hash",
    "_view_id",
    "_session_id",
    "spans",
    "tokens",
    "options",
    "accept",
    "label",
}


def recognizes(records: Sequence[Any], noun: str) -> bool:
    """Returns True if all records have a text, an answer and another key that Prodigy writes."""
    return noun in ("sentence", "text") and all(
        isinstance(record, dict)
        and isinstance(record.get("text"), str)
        and record.get("answer") in _ANSWERS
        and record.keys() & _KEYS
        for record in records
    )


def convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields the accepted records with `text` and `spans` or `label`, and logs the number of the others.

    All are yielded if labels are not read or the user chooses by `answer`. A rejected category X is then the category
    "not X".
    """
    keeps_all = not reading.labelled or "answer" in reading.filter_keys
    answers: Counter[str] = Counter()
    relation_count = binary_count = negated_count = 0
    for where, origin, record in items:
        if not isinstance(record, dict):
            yield where, origin, record
            continue
        answer = str(record.get("answer"))
        answers[answer] += 1
        if not keeps_all and answer != "accept":
            continue
        relation_count += count_items(record.get("relations"))
        binary_count += record.get("_view_id") == "ner"
        is_negated = reading.noun == "text" and answer == "reject" and isinstance(record.get("label"), str)
        negated_count += is_negated
        yield where, origin, _convert_record(record, is_negated)
    if not reading.labelled:
        return
    dropped = ", ".join(f"{count:,} {answer}" for answer, count in answers.items() if answer != "accept")
    if dropped and not keeps_all:
        reading.log_line(
            f"{answers['accept']:,} of {answers.total():,} answers are read, those with accept (not {dropped}); "
            "?answer=accept,reject after the file's name chooses others"
        )
    if binary_count and reading.noun == "sentence":
        reading.log_line(
            f"warning: {binary_count:,} records answer yes or no to single spans (_view_id ner): all other words of "
            "their texts count as outside of spans; texts should be annotated completely (ner.manual, ner.correct)"
        )
    if negated_count:
        reading.log_line(f"{negated_count:,} rejected labels X are read as labels 'not X'")
    if relation_count:
        reading.log_line(f"relations between spans are not read ({relation_count:,})")


def _convert_record(record: JsonObject, is_negated: bool) -> JsonObject:
    """Returns a record with spans if its text has tokens, and with a label if it has a category or a choice."""
    converted: JsonObject = ({"spans": []} if "tokens" in record else {}) | record
    if is_negated:
        converted["label"] = f"not {record['label']}"
    elif "label" not in record and isinstance(record.get("accept"), list):
        converted["label"] = record["accept"]
    return converted


TOOL = AnnotationTool("Prodigy", recognizes, convert)
