"""Reads texts or pairs of texts that each have a label, several labels or a number."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.data.demo import classification, requests, similarity
from jaxft.data.sources import class_folders, files, formats, labels
from jaxft.data.sources.examples import admit_examples
from jaxft.data.sources.formats import FileFormat, ResolvedSource
from jaxft.data.sources.labels import DEFAULT_RULES, LabelRules
from jaxft.data.sources.records import filters, record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.errors import UserError

# Corpus -> generator of its records; `classification` generates the other corpora.
_DEMO_GENERATORS = {"requests": requests.generate_records, "similarity": similarity.generate_records}
# Keys that usually hold a text or a label, by setting; messages propose them.
_USUAL_KEYS = {
    "text": "text text_a sentence sentence1 review reviewtext review_text review_body content comment_text comment "
    "tweet message utterance query question body document headline description title premise input",
    "text_pair": "text_pair text_b sentence2 text2 hypothesis question2 answer",
    "label": "label labels class category target sentiment stars rating score intent intents topic gold gold_label "
    "coarse_label airline_sentiment output y",
}
_NO_LABELS = ("", "id", "index", "fold", "split", "unnamed: 0")  # keys that may hold 0 or 1 and are no labels


@dataclass(frozen=True, slots=True)
class LabelledText:
    """An example: a text, an optional second text, and the label."""

    text: str
    pair: str | None  # the second text
    label: Any  # a `Label`, of one kind for all texts; None if labels are not read
    origin: str  # "reviews.csv:17" (the first line), for messages
    label_names: tuple[str, ...] = ()  # the names of labels in the order that the data or the user declares


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
    rules: LabelRules = DEFAULT_RULES,
    format: FileFormat = formats.UNSET,
    log: files.Log = files.log_nothing,
) -> Iterator[LabelledText]:
    """Streams the examples of a source, in its order and in constant memory.

    Args:
      source: a path; a folder with a folder for each label (see `class_folders`); a pattern of several files (see
        `files.find_files`); "-" for stdin; an open stream of lines in UTF-8; `demo:NAME/SPLIT` with the name sentiment,
        intent, requests or similarity; or `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. A filter chooses records:
        `data.jsonl?fold=0-3`.
      columns: the keys of texts and labels.
      rules: the meaning of labels.
      format: how files are read. Tables have a header. "text" is one text per line, without labels.
      log: prints a line about the source.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid (raised while reading, with file,
        line or row, and key).
    """
    if isinstance(source, str) and source.startswith("demo:"):
        examples = _parse_rows(_generate_records(source), {}, columns, rules)
        return admit_examples(examples, source, "text", format.max_text)
    if class_folders.is_folder(source) and format.name in (formats.AUTO, "text"):
        folder, record_filter = filters.split_filter(source)
        rows = class_folders.read_class_folders(
            folder, text_key=columns.text, label_key=columns.label, format=format, log=log
        )
        examples = _parse_rows(filters.filter_records(rows, record_filter), {}, columns, rules)
        return admit_examples(examples, source, "text", format.max_text)
    keys = [key for key in (columns.text, columns.pair, *(columns.label or "").split(",")) if key]
    resolved = formats.resolve_source(source, formats.TEXTS, format, log, keys=keys)
    log = files.log_once(log)
    texts = files.open_each(lambda file: _read_file(file, columns, rules, log), resolved)
    return itertools.chain.from_iterable(texts)


def _read_file(
    source: ResolvedSource, columns: TextColumns, rules: LabelRules, log: files.Log
) -> Iterator[LabelledText]:
    """Yields the examples of one file, stream or dataset."""
    if source.format.name == "text":
        if columns.label is not None or columns.pair is not None:
            lacking = "labels" if columns.label is not None else "second texts"
            raise UserError(
                f"{files.source_name(source.address)}: plain text has no {lacking}; give JSON lines, a table or "
                "Parquet, or name the file's format in config.data.format"
            )
        rows = _read_text(source, columns.text)
        features: Mapping[str, Any] = {}
    else:
        rows, features = read_records(source, formats.TEXTS, log, labelled=columns.label is not None)
    examples = _parse_rows(rows, features, columns, rules)
    return admit_examples(examples, source.name, "text", source.format.max_text)


def _generate_records(source: str) -> Iterator[record_values.Record]:
    """Yields the records of a demo corpus that its filter chooses."""
    address, record_filter = filters.split_filter(source)
    name = address.removeprefix("demo:").partition("/")[0]
    generate_records = _DEMO_GENERATORS.get(name, classification.generate_records)
    return filters.filter_records(generate_records(address), record_filter)


def _parse_rows(
    rows: Iterator[record_values.Record], features: Mapping[str, Any], columns: TextColumns, rules: LabelRules
) -> Iterator[LabelledText]:
    """Yields the examples of records with these features."""
    rules = dataclasses.replace(rules, integer_names=labels.integer_names(features.get(columns.label or "")))
    return (parse_labelled_text(*row, columns, rules) for row in rows)


def _read_text(source: ResolvedSource, key: str) -> Iterator[record_values.Record]:
    """Yields a record `{key: line}` for each line."""
    name = files.source_name(source.address)
    format = source.format
    for number, line in files.read_lines(source.address, format.encoding, max_bytes=format.max_text):
        yield f"{name}, line {number}", f"{name}:{number}", {key: line.rstrip("\r\n")}


def parse_labelled_text(
    where: str,
    origin: str,
    record: record_values.JsonObject,
    columns: TextColumns,
    rules: LabelRules = DEFAULT_RULES,
) -> LabelledText:
    """Parses a record into an example.

    Args:
      where: the place of the record, for messages.
      origin: the example's origin.
      record: keys and values.
      columns: the keys of texts and labels.
      rules: the meaning of labels.

    Raises:
      UserError: the record is invalid; the message has its place and key.
    """
    _require_keys(record, columns, where)
    keys = [key for key in (columns.text, columns.pair) if key is not None]
    for key in keys:
        record_values.check_string(record[key], where, key)
    text, pair = (*(record[key] for key in keys), None)[:2]
    if columns.label is None:
        return LabelledText(text, pair, None, origin)
    label = labels.parse_label(record, columns.label, where, rules)
    return LabelledText(text, pair, label, origin, labels.declared_names(record, columns.label, rules))


def _require_keys(record: Mapping[str, Any], columns: TextColumns, where: str) -> None:
    """Raises `UserError` if a record lacks a key. The message has the keys that are probably meant."""
    keys = [("text", columns.text), ("text_pair", columns.pair)]
    if columns.label is not None:
        keys += [("label", key) for key in labels.split_keys(record, columns.label)]
    missing = [(setting, key) for setting, key in keys if key is not None and key not in record]
    if not missing:
        return
    settings = list(dict.fromkeys(setting for setting, _ in missing))
    free = {str(key): value for key, value in record.items() if key not in dict(keys).values()}
    probable = {setting: _guess_key(free, setting) for setting in settings}
    examples = [f"config.data.{setting}={key}" for setting, key in probable.items() if key]
    hint = (
        f"name the {'one that is' if len(missing) == 1 else 'ones that are'} meant in "
        f"{' and '.join(f'config.data.{setting}' for setting in settings)}"
        f"{', such as ' if examples else ''}{' and '.join(examples)} (tables need a header)"
    )
    shown = " and ".join(repr(key) for _, key in missing)
    raise UserError(
        f"{where}: no key{'' if len(missing) == 1 else 's'} {shown} in {record_values.describe_keys(record)}; {hint}"
    )


def _guess_key(record: Mapping[str, Any], setting: str) -> str | None:
    """Returns the key of a record that usually holds what a setting names, for messages; None if there is none."""
    by_lower_case = {key.lower(): key for key in reversed(list(record))}
    usual = [by_lower_case[name] for name in _USUAL_KEYS[setting].split() if name in by_lower_case]
    if usual:
        return usual[0]
    bits = [
        key
        for key, value in record.items()
        if labels.as_bit(value) is not None and key.lower() not in _NO_LABELS
    ]
    return ",".join(bits) if setting == "label" and len(bits) > 1 else None
