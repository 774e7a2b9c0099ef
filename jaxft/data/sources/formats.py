"""Decides how the files of a source are read: their format, their encoding, and the character between values.

`resolve_source` decides for every task and verb, from the kind of the examples, the suffix of a file and its first
bytes. What the user sets is never changed. A line of the log says what was decided from the content.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records import filters, json_documents, tables
from jaxft.errors import UserError

AUTO = "auto"


@dataclass(frozen=True)
class FileFormat:
    """How a file is read. "auto" stands for what its name and content show."""

    name: str = AUTO
    encoding: str = AUTO  # as Python names it
    delimiter: str = AUTO  # the character between the values of a table, or between CoNLL columns


UNSET = FileFormat()


@dataclass(frozen=True)
class ExampleKind:
    """A kind of examples, and the formats that they are read from.

    Attributes:
      noun: the name of an example in messages.
      formats: the names of formats, with "auto".
      demo: an address of a demo corpus, for messages.
    """

    noun: str
    formats: tuple[str, ...]
    demo: str


_RECORDS = ("jsonl", "json", "csv", "tsv", "parquet", "hub")
SENTENCES = ExampleKind("sentence", (AUTO, "conll", "conllu", "text", *_RECORDS), "demo:ner/train")
TEXTS = ExampleKind("text", (AUTO, "text", *_RECORDS), "demo:sentiment/train, demo:intent/train")
QUESTIONS = ExampleKind("question", (AUTO, "squad", *_RECORDS), "demo:qa/train")
DOCUMENTS = ExampleKind("document", (AUTO, "text", *_RECORDS), "demo:text/train, demo:headline/train")

_CONLL_SUFFIXES = (".conll", ".iob", ".iob2", ".bio", ".conll03", ".conll2003")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_TEXT_SUFFIXES = (".txt", ".text")
_WORDS = {
    "jsonl": "JSON lines",
    "json": "one JSON document",
    "conll": "CoNLL columns",
    "conllu": "CoNLL-U",
    "csv": "a table",
    "tsv": "a table without quotes",
    "text": "plain text",
    "squad": "SQuAD's JSON",
    "parquet": "Parquet",
}
_DELIMITER_WORDS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes", " ": "spaces"}


class ResolvedSource(NamedTuple):
    """A file, stdin, a stream or a dataset of the hub, and how it is read: no field of `format` is "auto"."""

    address: str | files.Stream
    format: FileFormat
    record_filter: str = ""  # conditions on its records, see `filters.filter_records`


def resolve_source(
    source: str | files.Stream,
    kind: ExampleKind,
    format: FileFormat,
    log: files.Log,
    *,
    keys: Collection[str] = (),
) -> list[ResolvedSource]:
    """Returns the files of a source, each with its format; logs what their content decided.

    Args:
      source: a path, a pattern of several files, "-", a stream in UTF-8, or `hub:NAME...`; with or without a filter.
      kind: the kind of the examples.
      format: what the user sets. A stream needs its name.
      log: prints a line about the source.
      keys: names that the columns of a table should have; they help to find the delimiter.

    Raises:
      UserError: a file cannot be read, or its format is not of this kind, cannot be told, or is none of text.
    """
    if format.name not in kind.formats:
        raise UserError(
            f"config.data.format={format.name!r} is not for {kind.noun}s; expected {', '.join(kind.formats)}"
        )
    if not isinstance(source, str):
        return [ResolvedSource(source, _complete(format, encodings.UTF8))]
    if (paths := files.find_files(source)) is not None:
        resolved = [resolve_file(path, kind, format, keys) for path in paths]
        _log_formats(source, resolved, format, log)
        return [ResolvedSource(path, decided) for path, decided in zip(paths, resolved, strict=True)]
    address, record_filter = filters.split_filter(source)
    if format.name == "hub" or address.startswith("hub:"):
        return [ResolvedSource(address, FileFormat("hub", encodings.UTF8, ","), record_filter)]
    files.check_readable(address, kind.demo)
    decided = resolve_file(address, kind, format, keys)
    _log_formats(address, [decided], format, log)
    if record_filter and decided.name in ("text", "conll", "conllu", "squad"):
        raise UserError(
            f"{source}: ?{record_filter} chooses records by a key, which {_WORDS[decided.name]} has none of"
        )
    return [ResolvedSource(address, decided, record_filter)]


def resolve_file(path: str, kind: ExampleKind, format: FileFormat, keys: Collection[str] = ()) -> FileFormat:
    """Returns how a file or stdin ("-") is read: `format`, with what the file shows in the place of "auto".

    Raises:
      UserError: the file is none of text, or its format cannot be told.
    """
    sample = files.peek(path)
    if format.name == "parquet" or (format.name == AUTO and sample.startswith(b"PAR1")):
        return _complete(replace(format, name="parquet"), encodings.UTF8)
    if format.name == AUTO and os.path.splitext(path)[1].lower() == ".parquet":
        return _complete(replace(format, name="parquet"), encodings.UTF8)
    name = files.source_name(path)
    if description := encodings.describe_binary(sample):
        raise UserError(f"{name}: {description}")
    encoding = encodings.detect_encoding(sample) if format.encoding == AUTO else format.encoding
    text = encodings.decode_sample(sample, encoding)
    if encodings.has_lone_returns(text):
        text = text.replace("\r", "\n")
    decided = format.name if format.name != AUTO else _decide_name(path, kind, text, keys, len(sample))
    if format.name == AUTO and decided == "tsv" and _has_quoted_values(text):
        decided = "csv"
    delimiter = format.delimiter
    if delimiter == AUTO and decided in ("csv", "tsv"):
        usual = "\t" if decided == "tsv" or path.lower().endswith(".tsv") else ","
        delimiter = usual if decided == "tsv" else tables.sniff_delimiter(text, keys, usual)
    return _complete(FileFormat(decided, encoding, delimiter), encoding)


def _complete(format: FileFormat, encoding: str) -> FileFormat:
    """Returns a format without "auto" where its name needs no encoding or delimiter."""
    delimiter = "\t" if format.name == "tsv" else ","
    return FileFormat(
        format.name,
        encoding if format.encoding == AUTO else format.encoding,
        delimiter if format.delimiter == AUTO and format.name in ("csv", "tsv") else format.delimiter,
    )


def _decide_name(path: str, kind: ExampleKind, text: str, keys: Collection[str], byte_count: int) -> str:
    """Returns the name of the format of a file, by the kind of the examples, its suffix and its beginning."""
    suffix = os.path.splitext(path)[1].lower()
    json_name = sniff_json(text, is_complete=byte_count < files.PEEKED)
    if json_name == "json" and kind is QUESTIONS and '"paragraphs"' in text:
        json_name = "squad"
    if suffix in _JSON_SUFFIXES:
        return json_name or "jsonl"
    is_text = path == "-" or suffix in _TEXT_SUFFIXES
    if json_name and not (kind is DOCUMENTS and suffix != ".csv" and suffix != ".tsv"):
        return json_name
    if suffix == ".csv":
        return "csv"
    if kind is DOCUMENTS:
        return "tsv" if suffix == ".tsv" else "text"
    if kind is SENTENCES:
        if suffix in _CONLL_SUFFIXES or suffix == ".conllu":
            return "conllu" if suffix == ".conllu" else "conll"
        if suffix == ".tsv":
            return "tsv" if _has_header(text, "\t", keys) else "conll"
        if looks_like_columns(text):
            return "conll"
    elif suffix == ".tsv":
        return "tsv"
    elif any(_has_header(text, delimiter, keys) for delimiter in tables.DELIMITERS):
        return "csv"
    if is_text and "text" in kind.formats:
        return "text"
    if path == "-":
        return "jsonl"
    raise UserError(
        f"{files.source_name(path)}: neither suffix nor content tells its format; set config.data.format to "
        f"{', '.join(kind.formats[1:-1])}"
    )


def sniff_json(text: str, *, is_complete: bool) -> str:
    """Returns "jsonl" or "json" if the beginning of a file is of JSON lines or of one JSON document, else "".

    Args:
      text: the beginning of the file.
      is_complete: True if it is all of the file.
    """
    text = text.lstrip("\ufeff \t\r\n")
    if not re.match(r'\[\s*(?:[{\["\]]|-?\d)|\{\s*["}]', text):
        return ""
    first, line_end, rest = text.partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        if line_end:  # a line of a document of several lines, or a broken record
            return "jsonl" if first.rstrip().endswith("}") and first.startswith("{") else "json"
        if is_complete:
            return "jsonl" if first.startswith("{") else "json"
        return "json" if first.startswith("[") or _begins_document(first) else "jsonl"
    if isinstance(value, list):
        return "jsonl" if rest.strip() else "json"
    return "jsonl" if rest.strip() or not json_documents.is_document(value) else "json"


def _begins_document(line: str) -> bool:
    """Returns True if a JSON object on a single long line begins as a document of records does."""
    scalars = r'(?:"(?:[^"\\]|\\.)*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)\s*,\s*)*'
    begin = rf'\{{\s*{scalars}(?:"(?:data|columns|index|schema)"\s*:\s*[\[{{]|"[^"]*"\s*:\s*\{{\s*"-?\d+"\s*:|"-?\d+"\s*:\s*\{{)'
    return re.match(begin, line) is not None


def _has_header(text: str, delimiter: str, keys: Collection[str]) -> bool:
    """Returns True if the first line, divided into two values or more, has one of the names `keys`."""
    try:
        [header] = csv.reader(text.splitlines()[:1], delimiter=delimiter)
    except (csv.Error, ValueError):
        return False
    return len(header) > 1 and not set(keys).isdisjoint(header)


def looks_like_columns(text: str) -> bool:
    """Returns True if the beginning of a file has a word a line, with a tag in the last column.

    All words have as many columns, two or more. Tags are of an entity scheme, or few different ones come often.
    """
    lines = text.split("\n")[: None if text.endswith("\n") else -1] or [text]
    words = [line for line in lines if line.strip() and not re.match(r"#|\s*-DOCSTART-(\s|$)", line)]
    rows = [line.rstrip("\r").split("\t") if "\t" in line else line.split() for line in words]
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return False
    tags = [row[-1].strip() for row in rows]
    if all(re.fullmatch(r"O|[BIESLUMW]|[BIESLUMW][-_]\S+|\S+[-_][BIESLUMW]", tag) for tag in tags):
        return True
    return len(tags) >= 4 and len(set(tags)) <= len(tags) / 2 and not any(" " in tag for tag in tags)


def _has_quoted_values(text: str) -> bool:
    """Returns True if the beginning of a table with tabs has quotes as in CSV.

    Each value that begins with a quote ends with one and has only doubled ones inside, no other value has quotes, and
    a quoted value needs its quotes (for it holds quotes) or all values of its column are quoted.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")[:-1] if line.strip()]
    rows = [line.split("\t") for line in lines]
    if len(rows) < 2 or '"' not in text:
        return False
    quoted = [[re.fullmatch(r'"(?:[^"]|"")*"', value) is not None for value in row] for row in rows]
    for row, flags in zip(rows, quoted, strict=True):
        if any('"' in value and not flag for value, flag in zip(row, flags, strict=True)):
            return False
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        return False
    columns_quoted = [all(flags[index] for flags in quoted[1:]) for index in range(width)]
    return any(columns_quoted) or any('""' in value[1:-1] for row in rows for value in row if len(value) > 2)


def _log_formats(source: str, formats: list[FileFormat], setting: FileFormat, log: files.Log) -> None:
    """Logs the formats of the files of a source, unless the suffix and the settings tell them."""
    counts = Counter(formats)
    for format, count in counts.items():
        usual = _usual_format(source)
        if len(counts) == 1 and (
            format == usual or AUTO not in (setting.name, setting.encoding, setting.delimiter)
        ):
            continue
        number = f"{count:,} files are " if len(formats) > 1 else ""
        log(
            f"{files.source_name(source)}: {number}{describe(format)} (config.data.format, .encoding and .delimiter say otherwise)"
        )


def _usual_format(source: str) -> FileFormat | None:
    """Returns the format that the suffix of a source alone tells, in UTF-8; None if it does not."""
    suffix = os.path.splitext(source)[1].lower()
    names = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".conllu": "conllu", ".parquet": "parquet"}
    name = names.get(suffix, "conll" if suffix in _CONLL_SUFFIXES else None)
    return name and _complete(FileFormat(name), encodings.UTF8)


def describe(format: FileFormat) -> str:
    """Returns a format in words: "a table with values between semicolons, in UTF-16"."""
    words = _WORDS[format.name]
    if format.name in ("csv", "tsv"):
        words += f" with {_DELIMITER_WORDS.get(format.delimiter, repr(format.delimiter))} between values"
    return words if encodings.is_utf8(format.encoding) else f"{words}, in {format.encoding}"
