"""Reads questions about contexts with their answers: SQuAD's JSON, JSON lines, Parquet and the hub."""

import json
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.demo import questions as demo_questions
from jaxft.data.sources import conll, files, records
from jaxft.data.sources.sentences import check_readable, require_examples
from jaxft.errors import UserError

FORMATS = ("auto", "squad", "jsonl", "parquet", "hub")
KEYS = ("id", "question", "context", "answers")  # of records; other names by config.data.columns

_LAYOUT = "SQuAD's JSON is data > paragraphs (context, qas) > qas (id, question, answers)"


class Answer(NamedTuple):
    """Characters `start` up to `start + len(text)` of the context."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """One example: a question, the text that it is asked of, and what answers it there."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None  # (): the context has none; None where answers aren't asked for
    origin: str  # "train.json:data[0].paragraphs[2].qas[1]" or "train.jsonl:17", for messages


def read_questions(
    source: str | conll.Stream,
    *,
    format: str = "auto",
    answered: bool = True,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Question]:
    """The questions of a source, in its order.

    Args:
      source: a path, or a pattern of several files, see `files.matching`; "-" for stdin; an open stream (of JSON
        lines); `demo:qa/SPLIT`; or
        `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. Of records some can be chosen: `data.jsonl?fold=0-3`.
      format: one of `FORMATS`. "squad" is one JSON document of SQuAD 1.1 or 2.0, read as a whole. The others are
        records with the keys of `KEYS`, streamed; their answers are a list of objects with `text` and
        `answer_start`, or an object of two lists, as `datasets` has them; [] where there is none; `id` may be
        missing. "auto" goes by the suffix; a .json file may be either.
      answered: whether answers are asked for; if not they may be missing, and are not looked at.
      columns: keys of records where they differ from `KEYS`.

    Raises:
      UserError: at once for a source that is not there, and while reading for data that is not as it should be;
        with file, line or place, and key.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not for questions; expected {', '.join(FORMATS)}")
    names = {key: key for key in KEYS} | dict(columns or {})
    if unknown := sorted(names.keys() - set(KEYS)):
        raise UserError(f"config.data.columns: {', '.join(unknown)} unknown; expected {', '.join(KEYS)}")
    if (paths := files.find_files(source)) is not None:
        settings = {"format": format, "answered": answered, "columns": columns}
        return (found for name in paths for found in read_questions(name, **settings))
    address, choice = records.split_filter(source) if isinstance(source, str) else (source, "")
    if isinstance(source, str) and source.startswith("demo:"):
        rows, names = demo_questions.generate_records(address), {key: key for key in KEYS}
    elif isinstance(source, str) and (format == "hub" or source.startswith("hub:")):
        rows, _ = records.read_hub(address if address.startswith("hub:") else f"hub:{address}")
    else:
        if isinstance(source, str):
            check_readable(address, "demo:qa/train")
            format = guess_question_format(address) if format == "auto" else format
        if format == "squad":
            if choice:
                raise UserError(
                    f"{source}: ?{choice} chooses records by a key, which SQuAD's JSON has none of"
                )
            return require_examples(_squad(source, answered), source, "question")
        rows = records.read_parquet(address)[0] if format == "parquet" else records.read_jsonl(address)
    questions = (_question(*row, names, answered) for row in records.filter_records(rows, choice))
    return require_examples(questions, source, "question")


def guess_question_format(source: str) -> str:
    """The format of a path or of stdin: by its suffix, of .json by its first line; `UserError` for other suffixes."""
    suffix = os.path.splitext(source)[1].lower()
    if source == "-":
        return "jsonl"
    if suffix == ".json":
        first = next((line for _, line in conll.read_lines(source) if line.strip()), "")
        try:
            record = json.loads(first)
        except ValueError:  # a document over several lines
            return "squad"
        return "jsonl" if isinstance(record, dict) and "data" not in record else "squad"
    if (format := records.FORMAT_BY_SUFFIX.get(suffix)) in FORMATS:
        return format
    raise UserError(
        f"{source}: the suffix does not tell its format; set the format to squad, jsonl or parquet"
    )


def _squad(source: str | conll.Stream, answered: bool) -> Iterator[Question]:
    name = conll.source_name(source)
    text = "".join(line for _, line in conll.read_lines(source))
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); {_LAYOUT}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: JSON that cannot be read ({error})") from None
    articles = _items(_checked(document, name), "data", name, "")
    for article, at in articles:
        for paragraph, place in _items(
            _checked(article, f"{name}, {at}"), "paragraphs", f"{name}, {at}", f"{at}."
        ):
            where = f"{name}, {place}"
            context = _value(_checked(paragraph, where), "context", where, _LAYOUT)
            for qa, inner in _items(paragraph, "qas", where, f"{place}."):
                record = {"context": context} | _checked(qa, f"{name}, {inner}")
                yield _question(
                    f"{name}, {inner}", f"{name}:{inner}", record, {key: key for key in KEYS}, answered
                )


def _checked(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: a JSON {records.json_type_name(value)} where an object was expected; {_LAYOUT}"
        )
    return value


def _items(record: dict, key: str, where: str, before: str) -> Iterator[tuple[Any, str]]:
    """The items of a list under `key`, each with its place in the document."""
    value = _value(record, key, where, _LAYOUT)
    if not isinstance(value, list):
        raise UserError(
            f"{where}, key {key!r}: a JSON {records.json_type_name(value)} where a list was expected; {_LAYOUT}"
        )
    return ((item, f"{before}{key}[{index}]") for index, item in enumerate(value))


def _value(record: dict, key: str, where: str, hint: str) -> Any:
    if key not in record:
        raise UserError(f"{where}: no key {key!r} in {sorted(map(str, record))}; {hint}")
    return record[key]


def _question(where: str, origin: str, record: dict, names: Mapping[str, str], answered: bool) -> Question:
    texts = {}
    for role in ("question", "context"):
        key = names[role]
        hint = f"name the one that is meant in config.data.columns, (({role!r}, KEY),)"
        texts[role] = _value(record, key, where, hint)
        records.check_string(texts[role], where, key)
        if not texts[role].strip():
            raise UserError(f"{where}, key {key!r}: an empty {role}; leave this question out, or write it")
    name = record.get(names["id"])
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise UserError(
            f"{where}, key {names['id']!r}: a {records.json_type_name(name)} where a string was expected"
        )
    answers = _answers(where, record, names["answers"], texts["context"]) if answered else None
    return Question(
        origin if name is None else str(name), texts["question"], texts["context"], answers, origin
    )


def _answers(where: str, record: dict, key: str, context: str) -> tuple[Answer, ...]:
    impossible = record.get("is_impossible")
    hint = 'a question without an answer has "answers": []'
    value = [] if impossible is True and key not in record else _value(record, key, where, hint)
    place = f"{where}, key {key!r}"
    if isinstance(value, dict):  # as `datasets` holds them
        columns = [_value(value, name, place, hint) for name in ("text", "answer_start")]
        if not all(isinstance(column, list) for column in columns) or len(columns[0]) != len(columns[1]):
            raise UserError(f"{place}: expected two lists of one length, text and answer_start")
        value = [{"text": text, "answer_start": start} for text, start in zip(*columns, strict=True)]
    if not isinstance(value, list):
        raise UserError(
            f"{place}: a {records.json_type_name(value)} where a list of answers was expected; {hint}"
        )
    if isinstance(impossible, bool) and impossible == bool(value):
        raise UserError(
            f"{where}: is_impossible is {str(impossible).lower()}, but there {'are' if value else 'are no'} answers; "
            "make one of them agree with the other"
        )
    return tuple(_answer(f"{place}, item {index}", item, context) for index, item in enumerate(value))


def _answer(place: str, item: Any, context: str) -> Answer:
    if not isinstance(item, dict):
        raise UserError(
            f"{place}: a {records.json_type_name(item)} where an object with text and answer_start was expected"
        )
    hint = "an answer has text, and answer_start, which counts the context's characters from 0"
    text, start = (_value(item, key, place, hint) for key in ("text", "answer_start"))
    records.check_string(text, place, "text")
    if not text.strip():
        raise UserError(f'{place}: an empty text; a question without an answer has "answers": []')
    if isinstance(start, bool) or not isinstance(start, int):
        raise UserError(f"{place}: answer_start is a {records.json_type_name(start)}; {hint}")
    if start < 0 or context[start : start + len(text)] != text:
        found = context[start : start + len(text)] if start >= 0 else ""
        known = context.find(text)
        mend = f"it first stands at {known}" if known >= 0 else "the context does not hold it"
        raise UserError(
            f"{place}: at answer_start {start} the context has {found[:60]!r}, not {text[:60]!r}; {mend} "
            "(characters are counted from 0, not bytes)"
        )
    return Answer(text, start)


def split_dev_questions(
    questions: Sequence[Question], fraction: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Splits off a development set of about `fraction`: returns `(train, dev)`, both in order.

    All questions about a context stay together, unless there is one context only.
    """
    if len(questions) < 2:
        raise UserError(
            f"{len(questions)} question in the training data: none can be split off for evaluation; "
            "add data, or name a dev set"
        )
    groups: list[Any] = [question.context for question in questions]
    if len(set(groups)) == 1:
        groups = list(range(len(questions)))
    order = list(dict.fromkeys(groups))
    random.Random(seed).shuffle(order)
    sizes = dict.fromkeys(order, 0)
    for group in groups:
        sizes[group] += 1
    taken, held = set(), 0
    for group in order[:-1]:  # one stays
        if held >= math.ceil(fraction * len(questions)):
            break
        taken.add(group)
        held += sizes[group]
    parts: tuple[list, list] = ([], [])
    for question, group in zip(questions, groups, strict=True):
        parts[group in taken].append(question)
    return parts


def find_question_overlap(train: Iterable[Question], other: Iterable[Question]) -> np.ndarray:
    """Which of the other questions are about contexts that stand in `train`: bool `[N]`."""
    seen = {question.context for question in train}
    return np.fromiter((question.context in seen for question in other), bool)
