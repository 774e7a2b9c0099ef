"""Converts spaCy's training data: the JSON of version 2, and lists of texts with offsets of entities.

The JSON of version 2 has documents with paragraphs, sentences and tokens, whose `ner` is a BILUO tag; a paragraph may
have categories. Lists are `["text", {"entities": [[0, 4, "LOC"]], "cats": {"NEWS": 1.0}}]`, also under `annotations` in
an object. See https://github.com/explosion/spaCy, spacy/training/gold_io.pyx.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading, list_objects
from jaxft.data.sources.records.record_values import JsonObject

_MISSING = "-"  # the tag of a token of which it is not known whether it is in an entity


def _is_document(value: Any) -> bool:
    paragraphs = value.get("paragraphs") if isinstance(value, dict) else None
    return isinstance(paragraphs, list) and all(
        isinstance(paragraph, dict) and isinstance(paragraph.get("sentences"), list)
        for paragraph in paragraphs
    )


def _is_annotated_text(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return is_pair and isinstance(value[1], dict) and bool(value[1].keys() & {"entities", "cats"})


def _annotated_texts(value: Any) -> list[Any] | None:
    """Returns the list of an object with annotated texts; some tools write null for a text that was skipped."""
    texts = value.get("annotations") if isinstance(value, dict) else None
    if (
        isinstance(texts, list)
        and any(texts)
        and all(text is None or _is_annotated_text(text) for text in texts)
    ):
        return texts
    return None


def recognizes(values: Sequence[Any], noun: str) -> bool:
    """Returns True if all values are documents of version 2, annotated texts, or objects with annotated texts."""
    return noun in ("sentence", "text") and (
        all(map(_is_document, values))
        or all(map(_is_annotated_text, values))
        or all(_annotated_texts(value) is not None for value in values)
    )


def convert(items: Iterator[Item], reading: Reading) -> Iterator[Item]:
    """Yields a record for each sentence, paragraph (if texts are read) or annotated text."""
    missing_count = 0
    for where, origin, value in items:
        if _is_document(value):
            convert_paragraph = _sentence_records if reading.noun == "sentence" else _paragraph_record
            for number, paragraph in enumerate(value["paragraphs"], 1):
                for record in convert_paragraph(paragraph, where):
                    missing_count += sum(tag == _MISSING for tag in record.get("tags", ()))
                    if "tags" in record:
                        record["tags"] = ["O" if tag == _MISSING else tag for tag in record["tags"]]
                    yield f"{where}, paragraph {number}", origin, record
        elif _is_annotated_text(value):
            yield where, origin, _annotated_record(*value)
        elif (texts := _annotated_texts(value)) is not None:
            for number, text in enumerate(texts, 1):
                if text is not None:
                    yield f"{where}, annotation {number}", origin, _annotated_record(*text)
        else:
            yield where, origin, value
    if missing_count and reading.labelled:
        reading.log_line(
            f"warning: {missing_count:,} tokens have the tag '-' (not known), which is read as O, outside of entities"
        )


def _sentence_records(paragraph: Mapping[str, Any], where: str) -> Iterator[JsonObject]:
    """Yields tokens and tags of the sentences of a paragraph; without tags if no token has one."""
    for sentence in list_objects(paragraph["sentences"], where, "sentences"):
        tokens = list_objects(sentence.get("tokens"), where, "tokens")
        record = {"tokens": [token.get("orth") for token in tokens]}
        if not tokens or any("ner" in token for token in tokens):
            record["tags"] = [token.get("ner", _MISSING) for token in tokens]
        yield record


def _paragraph_record(paragraph: Mapping[str, Any], where: str) -> Iterator[JsonObject]:
    """Yields the text of a paragraph with its categories."""
    sentences = list_objects(paragraph["sentences"], where, "sentences")
    tokens = [
        token for sentence in sentences for token in list_objects(sentence.get("tokens"), where, "tokens")
    ]
    text = paragraph.get("raw")
    if text is None:
        text = "".join(f"{token.get('orth')}{token.get('space', ' ')}" for token in tokens).strip()
    record = {"text": text}
    if "cats" in paragraph:
        cats = list_objects(paragraph["cats"], where, "cats")
        record["label"] = _chosen((cat.get("label"), cat.get("value")) for cat in cats)
    yield record


def _annotated_record(text: str, annotations: Mapping[str, Any]) -> JsonObject:
    record: JsonObject = {"text": text}
    if "entities" in annotations:
        record["spans"] = annotations["entities"]
    if isinstance(annotations.get("cats"), dict):
        record["label"] = _chosen(annotations["cats"].items())
    return record


def _chosen(scores: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Returns the categories whose score, from 0 to 1 or a boolean, is at least a half."""
    return [label for label, score in scores if isinstance(score, int | float) and score >= 0.5]


TOOL = AnnotationTool("spaCy", recognizes, convert)
