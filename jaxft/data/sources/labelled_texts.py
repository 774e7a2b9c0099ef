"""Reads texts or pairs of texts that each have a label, several labels or a number."""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxft.data.demo import classification, requests, similarity
from jaxft.data.sources import files
from jaxft.data.sources.records import filters, hub, json_lines, parquet, record_values, tables
from jaxft.errors import UserError

FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "text", "hub")
SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"

# Corpus -> generator of its records; `classification` generates the other corpora.
_DEMO_GENERATORS = {"requests": requests.generate_records, "similarity": similarity.generate_records}
_FORMAT_BY_SUFFIX = record_values.FORMAT_BY_SUFFIX | {".tsv": "tsv", ".txt": "text", ".text": "text"}

Label = str | tuple[str, ...] | float  # a name, several names or a number, depending on the problem


@dataclass(frozen=True, slots=True)
class LabelledText:
    """An example: a text, an optional second text, and the label."""

    text: str
    pair: str | None  # the second text
    label: Label | None  # None if labels are not read
    origin: str  # "reviews.csv:17" (the first line), for messages


@dataclass(frozen=True, slots=True)
class TextColumns:
    """The keys of texts and labels in a record."""

    text: str = "text"
    pair: str | None = None  # the key of the second text; None if there is none
    label: str | None = "label"  # None if labels are not read


def read_labelled_texts(
    source: str | files.Stream,
    *,
    columns: TextColumns,
    problem: str = SINGLE,
    separator: str = ",",
    format: str = "auto",
) -> Iterator[LabelledText]:
    """Streams the examples of a source, in its order and in constant memory.

    Args:
      source: a path, or a pattern of several files (see `files.find_files`); "-" for stdin; an open stream, if `format`
        is read line by line; `demo:NAME/SPLIT` with the name sentiment, intent, requests or similarity; or
        `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. A filter chooses records: `data.jsonl?fold=0-3`.
      columns: the keys of texts and labels.
      problem: the kind of labels. `SINGLE` is a name (numbers, true and false become names), `MULTI` is a list of names
        or a string of names joined by `separator`, `NUMBER` is a number.
      separator: see `problem`.
      format: one of `FORMATS`. "auto" goes by the suffix. Tables have a header. "text" is one text per line, without
        labels.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid (raised while reading, with file,
        line or row, and key).
    """
    if (paths := files.find_files(source)) is not None:
        settings = {"columns": columns, "problem": problem, "separator": separator, "format": format}
        return (example for path in paths for example in read_labelled_texts(path, **settings))
    address, record_filter = filters.split_filter(source) if isinstance(source, str) else (source, "")
    rows, features = _read_records(address, format, columns)
    label_names = _label_names(features.get(columns.label))
    examples = (
        parse_labelled_text(*row, columns, problem, separator, label_names)
        for row in filters.filter_records(rows, record_filter)
    )
    return files.require_examples(examples, source, "text")


def guess_text_format(source: str) -> str:
    """Returns the format of a path, by its suffix, or of stdin. Raises `UserError` if the suffix is unknown."""
    suffix = os.path.splitext(source)[1].lower()
    if source == "-" or suffix in _FORMAT_BY_SUFFIX:
        return _FORMAT_BY_SUFFIX.get(suffix, "text")
    raise UserError(
        f"{source}: the suffix does not tell its format; set the format to {', '.join(FORMATS[1:-1])}"
    )


def _read_records(
    source: str | files.Stream, format: str, columns: TextColumns
) -> tuple[Iterator[record_values.Record], Mapping[str, Any]]:
    """Returns the records of a source, and its features if it has a schema."""
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not for texts with labels; expected {', '.join(FORMATS)}")
    if isinstance(source, str):
        if source.startswith("demo:"):
            name = source.removeprefix("demo:").partition("?")[0].partition("/")[0]
            generate_records = _DEMO_GENERATORS.get(name, classification.generate_records)
            return generate_records(source), {}
        if format == "hub" or source.startswith("hub:"):
            return hub.read_hub(source)
        files.check_readable(source, "demo:sentiment/train, demo:intent/train")
        format = guess_text_format(source) if format == "auto" else format
    if format == "text":
        if columns.label is not None or columns.pair is not None:
            lacking = "labels" if columns.label is not None else "second texts"
            raise UserError(
                f"{files.source_name(source)}: plain text has no {lacking}; give JSON lines, CSV, TSV or Parquet"
            )
        return _read_text(source, columns.text), {}
    if format == "parquet":
        return parquet.read_parquet(source)
    if format == "jsonl":
        return json_lines.read_jsonl(source), {}
    return tables.read_csv(source, format), {}


def _read_text(source: str | files.Stream, key: str) -> Iterator[record_values.Record]:
    """Yields a record `{key: line}` for each line."""
    name = files.source_name(source)
    for number, line in files.read_lines(source):
        yield f"{name}, line {number}", f"{name}:{number}", {key: line.rstrip("\r\n")}


def _label_names(feature: Any) -> list[str] | None:
    """Returns the names of integer labels, or of lists of them, if the schema has them."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(names) if names else None


def parse_labelled_text(
    where: str,
    origin: str,
    record: dict,
    columns: TextColumns,
    problem: str = SINGLE,
    separator: str = ",",
    label_names: Sequence[str] | None = None,
) -> LabelledText:
    """Parses a record into an example.

    Args:
      where: the place of the record, for messages.
      origin: the example's origin.
      record: keys and values.
      columns: the keys of texts and labels.
      problem: the kind of labels, see `read_labelled_texts`.
      separator: separates several labels in a string.
      label_names: the names of integer labels, by number.

    Raises:
      UserError: the record is invalid; the message has its place and key.
    """
    texts = []
    for setting, key in (("text", columns.text), ("text_pair", columns.pair)):
        if key is not None:
            text = _require_column(record, key, where, setting)
            record_values.check_string(text, where, key)
            texts.append(text)
    pair = texts[1] if len(texts) > 1 else None
    if columns.label is None:
        return LabelledText(texts[0], pair, None, origin)

    value, place = _require_column(record, columns.label, where, "label"), f"{where}, key {columns.label!r}"
    if value is None:
        raise UserError(f"{place}: null where a label was expected; leave out what has none")
    if problem == NUMBER:
        label = _parse_number(value, place)
    elif problem == MULTI:
        values = _parse_list(value, place, separator)
        label = tuple(dict.fromkeys(_parse_name(item, place, label_names) for item in values))
    else:
        label = _parse_name(value, place, label_names)
    return LabelledText(texts[0], pair, label, origin)


def _require_column(record: dict, key: str, where: str, setting: str) -> Any:
    """Returns the value under a key that `config.data.SETTING` names."""
    hint = f"name the one that is meant in config.data.{setting} (tables need a header)"
    return record_values.require_value(record, key, where, hint)


def _parse_name(value: Any, place: str, label_names: Sequence[str] | None) -> str:
    """Returns the name that a value stands for. `label_names` are the names of integers."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if label_names is None:
            return str(value)
        if not 0 <= value < len(label_names):
            raise UserError(
                f"{place}: label {value} is outside 0..{len(label_names) - 1} ({', '.join(label_names)}); test sets "
                "without labels often have -1"
            )
        return label_names[value]
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
        raise UserError(f"{place}: a {record_values.json_type_name(value)} where a label was expected")
    if not (name := value.strip()):
        raise UserError(f"{place}: an empty label; name it, or leave the record out")
    return name


def _parse_list(value: Any, place: str, separator: str) -> list:
    """Returns the labels of a list, of a JSON list in a string, or of a string with separators."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a table
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
            f"{place}: a {record_values.json_type_name(value)} where a list of labels, or a string of them with "
            f"{separator!r} between, was expected"
        )
    return value


def _parse_number(value: Any, place: str) -> float:
    """Returns the finite number that a value or its text stands for."""
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        )
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        shown = repr(value) if isinstance(value, str | float) else f"a {record_values.json_type_name(value)}"
        raise UserError(
            f"{place}: {shown} is not a finite number; config.model.problem_type={NUMBER!r} learns "
            "numbers, for names choose another"
        )
    return number


def collect_label_names(examples: Iterable[LabelledText]) -> list[str]:
    """Returns the names of all labels, in the order of `sort_labels`."""
    names: set[str] = set()
    for example in examples:
        names.update([example.label] if isinstance(example.label, str) else example.label)
    return sort_labels(names)


def sort_labels(names: Collection[str]) -> list[str]:
    """Sorts labels by number if all are integers, else by name."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
