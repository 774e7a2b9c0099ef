"""Reads questions about contexts, with their answers, from SQuAD's JSON, JSON lines, Parquet and the hub."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxft.data.demo import questions as demo_questions
from jaxft.data.sources import files, formats
from jaxft.data.sources.annotation_tools import question_groups
from jaxft.data.sources.examples import admit_examples
from jaxft.data.sources.formats import FileFormat, ResolvedSource
from jaxft.data.sources.records import filters, json_documents, record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError

KEYS = ("id", "question", "context", "answers")  # keys of records; config.data.columns renames them

_USUAL_KEYS = {key: key for key in KEYS}


class Answer(NamedTuple):
    """An answer: characters `start` to `start + len(text)` of the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """An example: a question, the context that it is about, and the answers in the context."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None  # () if the context has none; None if answers are not read
    origin: str  # "train.json:data[0].paragraphs[2].qas[1]" or "train.jsonl:17", for messages

    @property
    def gold_answers(self) -> tuple[Answer, ...]:
        """The answers of a question that was read with them."""
        assert self.answers is not None, f"{self.origin}: read without answers"
        return self.answers


def read_questions(
    source: str | files.Stream,
    *,
    format: FileFormat = formats.UNSET,
    answered: bool = True,
    columns: Mapping[str, str] | None = None,
    log: files.Log = files.log_nothing,
) -> Iterator[Question]:
    """Streams the questions of a source, in its order.

    Args:
      source: a path, or a pattern of several files (see `files.find_files`); "-" for stdin; an open stream of JSON
        lines; `demo:qa/SPLIT`; or `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. A filter chooses records:
        `data.jsonl?fold=0-3`.
      format: how files are read. "squad" is one JSON document of SQuAD 1.1 or 2.0, which is read completely. The
        others are records with the keys `KEYS`, or SQuAD's paragraphs with `context` and `qas`. Answers are a list of
        objects with `text` and `answer_start`, or an object of two lists, as in `datasets`; [] means no answer. `id`
        may be missing.
      answered: True if answers are read. If False, answers may be missing and are ignored.
      columns: role -> key of records, if it differs from `KEYS`.
      log: prints a line about the source.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid (raised while reading, with file,
        line or place, and key).
    """
    keys = _USUAL_KEYS | dict(columns or {})
    if unknown := sorted(keys.keys() - set(KEYS)):
        raise UserError(f"config.data.columns: {', '.join(unknown)} unknown; expected {', '.join(KEYS)}")
    if isinstance(source, str) and source.startswith("demo:"):
        address, record_filter = filters.split_filter(source)
        rows = filters.filter_records(demo_questions.generate_records(address), record_filter)
        questions = (parse_question(*row, _USUAL_KEYS, answered) for row in rows)
        return admit_examples(questions, source, "question", format.max_text)
    resolved = formats.resolve_source(source, formats.QUESTIONS, format, log, keys=list(keys.values()))
    log = files.log_once(log)

    def read_file(file: ResolvedSource) -> Iterator[Question]:
        if file.format.name == "squad":
            rows = read_squad_records(file)
            questions = (parse_question(*row, _USUAL_KEYS, answered) for row in rows)
        else:
            rows, _ = read_records(file, formats.QUESTIONS, log)
            questions = (parse_question(*row, keys, answered) for row in rows)
        return admit_examples(questions, file.name, "question", file.format.max_text)

    return itertools.chain.from_iterable(files.open_each(read_file, resolved))


def read_squad_records(source: ResolvedSource) -> Iterator[record_values.Record]:
    """Yields the questions of a SQuAD JSON document as records with their context."""
    name = files.source_name(source.address)
    document = json_documents.load_document(source.address, source.format.encoding, question_groups.LAYOUT)
    document = {"data": document} if isinstance(document, list) else document  # an array of articles
    document = question_groups.require_object(document, name)
    for article, path in question_groups.list_items(document, "data", name):
        where, origin = f"{name}, {path[1:]}", f"{name}:{path[1:]}"
        if question_groups.require_object(article, where).keys().isdisjoint(("question", "qas")):
            record_values.require_value(article, "paragraphs", where, question_groups.LAYOUT)
        yield from question_groups.list_questions(where, origin, article)


def parse_question(
    where: str, origin: str, record: JsonObject, keys: Mapping[str, str], answered: bool
) -> Question:
    """Parses a record into a question.

    Args:
      where: the place of the record, for messages.
      origin: the question's origin.
      record: keys and values.
      keys: role -> key of the record.
      answered: True if answers are read.

    Raises:
      UserError: the record is invalid; the message has its place and key.
    """
    texts = {}
    for role in ("question", "context"):
        key = keys[role]
        hint = f"name the one that is meant in config.data.columns, (({role!r}, KEY),)"
        texts[role] = record_values.require_value(record, key, where, hint)
        record_values.check_string(texts[role], where, key)
        if not texts[role].strip():
            raise UserError(f"{where}, key {key!r}: an empty {role}; leave this question out, or write it")
    identifier = record.get(keys["id"])
    if identifier is None:
        identifier = origin
    elif isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise UserError(
            f"{where}, key {keys['id']!r}: {record_values.describe_type(identifier)} where a string was expected"
        )
    answers = _parse_answers(where, record, keys["answers"], texts["context"]) if answered else None
    record_values.check_string(str(identifier), where, keys["id"])
    return Question(str(identifier), texts["question"], texts["context"], answers, origin)


def _parse_answers(where: str, record: JsonObject, key: str, context: str) -> tuple[Answer, ...]:
    """Parses the answers under `key`. It may be missing if the record says that there are no answers."""
    is_impossible = record.get("is_impossible")
    hint = 'a question without an answer has "answers": []'
    if is_impossible is True and key not in record:
        value = []
    else:
        value = record_values.require_value(record, key, where, hint)
    place = f"{where}, key {key!r}"
    if isinstance(value, str) and (cell := record_values.parse_cell(value)) is not None:  # in a table
        value = cell
    if isinstance(value, dict):  # as in `datasets`
        texts = record_values.require_value(value, "text", place, hint)
        starts = record_values.require_value(value, "answer_start", place, hint)
        if isinstance(texts, str) and isinstance(starts, int):
            texts, starts = [texts], [starts]
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise UserError(f"{place}: expected two lists of one length, text and answer_start")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        raise UserError(
            f"{place}: {record_values.describe_type(value)} where a list of answers was expected; {hint}"
        )
    if is_impossible is True and all(isinstance(item, dict) and item.get("text") == "" for item in value):
        value = []  # an empty answer, as simpletransformers writes none
    if isinstance(is_impossible, bool) and is_impossible == bool(value):
        are = "are" if value else "are no"
        raise UserError(
            f"{where}: is_impossible is {str(is_impossible).lower()}, but there {are} answers; "
            "make one of them agree with the other"
        )
    return tuple(_parse_answer(f"{place}, item {index}", item, context) for index, item in enumerate(value))


def _parse_answer(place: str, item: Any, context: str) -> Answer:
    """Parses an answer. Raises `UserError` if the context does not contain it at its start."""
    if not isinstance(item, dict):
        raise UserError(
            f"{place}: {record_values.describe_type(item)} where an object with text and answer_start was expected"
        )
    hint = "an answer has text, and answer_start, which counts the context's characters from 0"
    text = record_values.require_value(item, "text", place, hint)
    start = record_values.require_value(item, "answer_start", place, hint)
    record_values.check_string(text, place, "text")
    if not text.strip():
        raise UserError(f'{place}: an empty text; a question without an answer has "answers": []')
    if isinstance(start, bool) or not isinstance(start, int):
        raise UserError(f"{place}: answer_start is {record_values.describe_type(start)}; {hint}")
    if start < 0 or context[start : start + len(text)] != text:
        actual_text = context[start : start + len(text)] if start >= 0 else ""
        first_start = context.find(text)
        mend = f"it first stands at {first_start}" if first_start >= 0 else "the context does not hold it"
        raise UserError(
            f"{place}: at answer_start {start} the context has {actual_text[:60]!r}, not {text[:60]!r}; {mend} "
            "(characters are counted from 0, not bytes)"
        )
    return Answer(text, start)
