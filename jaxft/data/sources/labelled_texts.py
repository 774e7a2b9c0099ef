"""Reads texts, or pairs of them, with a label, several labels or a number each."""

import json
import math
import os
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.data.demo import classification, requests, similarity
from jaxft.data.sources import conll, files, records
from jaxft.data.sources.sentences import check_readable, require_examples
from jaxft.errors import UserError

FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "text", "hub")
SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"

_DEMOS = {
    "requests": requests.generate_records,
    "similarity": similarity.generate_records,
}  # others are demo_labelled's
_SUFFIXES = records.FORMAT_BY_SUFFIX | {".tsv": "tsv", ".txt": "text", ".text": "text"}

Label = str | tuple[str, ...] | float


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example: a text, perhaps with a second one, and what is known of it."""

    text: str
    pair: str | None  # the second text
    label: (
        Label | None
    )  # a name, several names, or a number, by the problem; None where labels aren't asked for
    origin: str  # "reviews.csv:17" (the first line), for messages


@dataclass(frozen=True, slots=True)
class TextColumns:
    """Keys of records: of the text, of the second one (None: there is none), and of the label."""

    text: str = "text"
    pair: str | None = None
    label: str | None = "label"  # None: labels aren't asked for


def read_labelled_texts(
    source: str | conll.Stream,
    *,
    columns: TextColumns,
    problem: str = SINGLE,
    separator: str = ",",
    format: str = "auto",
) -> Iterator[LabelledText]:
    """Streams the examples of a source, in its order and in constant memory.

    Args:
      source: a path, or a pattern of several files, see `files.matching`; "-" for stdin; an open stream (the format
        named, one that is read by lines); `demo:NAME/SPLIT` of sentiment, intent, requests and similarity; or
        `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`; with a choice of records, `data.jsonl?fold=0-3`, if wanted.
      problem: what a label is: `SINGLE` a name (numbers and true and false become names), `MULTI` a list of
        names or a string of them with `separator` between, `NUMBER` a number.
      format: one of `FORMATS`. "auto" goes by the suffix. Tables have a header. "text", one text a line, has
        no labels.

    Raises:
      UserError: at once for a source that is not there, and while reading for data that is not as it
        should be; with file, line or row, and key.
    """
    if (names := files.find_files(source)) is not None:
        settings = {"columns": columns, "problem": problem, "separator": separator, "format": format}
        return (found for name in names for found in read_labelled_texts(name, **settings))
    address, choice = records.split_filter(source) if isinstance(source, str) else (source, "")
    rows, features = _records(address, format, columns)
    names = _class_names(features.get(columns.label))
    examples = (
        parse_labelled_text(*row, columns, problem, separator, names)
        for row in records.filter_records(rows, choice)
    )
    return require_examples(examples, source, "text")


def guess_text_format(source: str) -> str:
    """The format of a path or of stdin, by its suffix. `UserError` where that does not tell."""
    suffix = os.path.splitext(source)[1].lower()
    if source == "-" or suffix in _SUFFIXES:
        return _SUFFIXES.get(suffix, "text")
    raise UserError(
        f"{source}: the suffix does not tell its format; set the format to {', '.join(FORMATS[1:-1])}"
    )


def _records(source, format: str, columns: TextColumns) -> tuple[Iterator[records.Record], Mapping[str, Any]]:
    """Records of a source and, where it has a schema, its features."""
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not for texts with labels; expected {', '.join(FORMATS)}")
    if isinstance(source, str):
        if source.startswith("demo:"):
            name = source.removeprefix("demo:").partition("?")[0].partition("/")[0]
            return _DEMOS.get(name, classification.generate_records)(source), {}
        if format == "hub" or source.startswith("hub:"):
            return records.read_hub(source if source.startswith("hub:") else f"hub:{source}")
        check_readable(source, "demo:sentiment/train, demo:intent/train")
        format = guess_text_format(source) if format == "auto" else format
    if format == "text":
        if columns.label is not None or columns.pair is not None:
            what = "labels" if columns.label is not None else "second texts"
            raise UserError(
                f"{conll.source_name(source)}: plain text has no {what}; give JSON lines, CSV, TSV or Parquet"
            )
        return _text_records(source, columns.text), {}
    if format == "parquet":
        return records.read_parquet(source)
    return (records.read_jsonl(source) if format == "jsonl" else records.read_csv(source, format)), {}


def _text_records(source: str | conll.Stream, key: str) -> Iterator[records.Record]:
    name = conll.source_name(source)
    for number, line in conll.read_lines(source):
        yield f"{name}, line {number}", f"{name}:{number}", {key: line.rstrip("\r\n")}


def _class_names(feature: Any) -> list[str] | None:
    """Names of integer labels, or of lists of them, if the schema has them."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(names) if names else None


def parse_labelled_text(
    where: str,
    origin: str,
    record: dict,
    columns: TextColumns,
    problem: str = SINGLE,
    separator: str = ",",
    names=None,
) -> LabelledText:
    """The example of one record; arguments as in `read`, names of integer labels by number."""
    texts = []
    for setting, key in (("text", columns.text), ("text_pair", columns.pair)):
        if key is not None:
            value = _value(record, key, where, setting)
            records.check_string(value, where, key)
            texts.append(value)
    label = None
    if columns.label is not None:
        value, place = _value(record, columns.label, where, "label"), f"{where}, key {columns.label!r}"
        if value is None:
            raise UserError(f"{place}: null where a label was expected; leave out what has none")
        if problem == NUMBER:
            label = _number(value, place)
        elif problem == MULTI:
            found = _several(value, place, separator)
            label = tuple(dict.fromkeys(_name(item, place, names) for item in found))
        else:
            label = _name(value, place, names)
    return LabelledText(texts[0], texts[1] if len(texts) > 1 else None, label, origin)


def _value(record: dict, key: str, where: str, setting: str) -> Any:
    if key not in record:
        raise UserError(
            f"{where}: no key {key!r} in {sorted(map(str, record))}; name the one that is meant in "
            f"config.data.{setting} (tables need a header)"
        )
    return record[key]


def _name(value: Any, place: str, names: Sequence[str] | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if names is None:
            return str(value)
        if not 0 <= value < len(names):
            raise UserError(
                f"{place}: label {value} is outside 0..{len(names) - 1} ({', '.join(names)}); test sets "
                "without labels often have -1"
            )
        return names[value]
    if isinstance(value, float):
        raise UserError(
            f"{place}: the number {value} where the name of a label was expected; write whole numbers or names, "
            f"or set config.model.problem_type={NUMBER!r} to predict numbers"
        )
    if isinstance(value, list):
        raise UserError(
            f"{place}: a list where one label was expected; set config.model.problem_type={MULTI!r}"
        )
    if not isinstance(value, str):
        raise UserError(f"{place}: a {records.json_type_name(value)} where a label was expected")
    if not (name := value.strip()):
        raise UserError(f"{place}: an empty label; name it, or leave the record out")
    return name


def _several(value: Any, place: str, separator: str) -> list:
    if isinstance(value, str) and value.lstrip().startswith("["):  # as tables hold lists
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(
                f"{place}: a list that is not JSON, {value[:60]!r}; write it with json.dumps"
            ) from None
    if isinstance(value, str):
        return [item for item in value.split(separator) if item.strip()]
    if not isinstance(value, list):
        raise UserError(
            f"{place}: a {records.json_type_name(value)} where a list of labels, or a string of them with "
            f"{separator!r} between, was expected"
        )
    return value


def _number(value: Any, place: str) -> float:
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        )
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        shown = repr(value) if isinstance(value, str | float) else f"a {records.json_type_name(value)}"
        raise UserError(
            f"{place}: {shown} is not a finite number; config.model.problem_type={NUMBER!r} learns "
            "numbers, for names choose another"
        )
    return number


def collect_label_names(examples: Iterable[LabelledText]) -> list[str]:
    """All names of labels, `in_order`."""
    found: set[str] = set()
    for example in examples:
        found.update([example.label] if isinstance(example.label, str) else example.label)
    return sort_labels(found)


def sort_labels(names: Collection[str]) -> list[str]:
    """By number where all are whole numbers, else by name."""
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def split_dev_labelled_texts(
    examples: Sequence[LabelledText], fraction: float, seed: int
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Splits off a development set of about `fraction`: returns `(train, dev)`, both in order.

    Single labels keep their shares: of the examples, shuffled and then grouped by label, every so many is taken.
    A label with one example stays in `train`.
    """
    if len(examples) < 2:
        raise UserError(
            f"{len(examples)} example in the training data: none can be split off for evaluation; "
            "add data, or name a dev set"
        )
    rng = random.Random(seed)
    groups: dict[str, list[int]] = {}
    for index in rng.sample(range(len(examples)), len(examples)):
        label = examples[index].label
        groups.setdefault(label if isinstance(label, str) else "", []).append(index)
    order = [index for name in sorted(groups) if len(groups[name]) > 1 for index in groups[name]]
    start = rng.random()  # so that the small groups' first ones are not always taken, or never
    taken = {
        index
        for place, index in enumerate(order)
        if math.floor((place + 1) * fraction + start) > math.floor(place * fraction + start)
    }
    taken = taken or set(order[:1]) or {0}
    parts = ([], [])
    for index, example in enumerate(examples):
        parts[index in taken].append(example)
    return parts


def find_text_overlap(train: Iterable[LabelledText], other: Iterable[LabelledText]) -> np.ndarray:
    """Which of the other examples have texts that stand in `train`, whatever their labels: bool `[N]`."""
    seen = {(example.text, example.pair) for example in train}
    return np.fromiter(((example.text, example.pair) in seen for example in other), bool)
