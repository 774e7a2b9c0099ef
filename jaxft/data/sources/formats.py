"""Decides how the files of a source are read: their format, their encoding, and the character between values.

`resolve_source` decides for every task and verb, from the kind of the examples, the suffix of a file and its first
bytes. What the user sets is never changed. A line of the log says what was decided from the content.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxft.data.sources import encodings, files, sniffing
from jaxft.data.sources.records import filters, in_memory
from jaxft.errors import UserError

AUTO = "auto"


@dataclass(frozen=True)
class FileFormat:
    """Says how a file is read. "auto" stands for what its name and content show."""

    name: str = AUTO
    encoding: str = AUTO  # as Python names it
    delimiter: str = AUTO  # the character between the values of a table, or between CoNLL columns
    # The most bytes of a text, and of the line, row or sentence in columns that it stands in; longer ones are refused.
    max_text: int = files.MAX_TEXT


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
IMAGES = ExampleKind(
    "image", (AUTO, "text", *_RECORDS), "a folder of images, demo:digits/train, demo:shapes/train"
)
DOCUMENTS = ExampleKind("document", (AUTO, "text", *_RECORDS), "demo:text/train, demo:headline/train")

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_TABLE_SUFFIXES = (".csv", ".tsv")
_TEXT_SUFFIXES = (".txt", ".text")
_COLUMN_SUFFIXES = {".conllu": "conllu"} | dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), "conll")
_USUAL_DELIMITERS = {"csv": ",", "tsv": "\t"}
# Formats that a suffix alone tells; the log is silent about them.
_USUAL_FORMATS = {
    suffix: FileFormat(name, encodings.UTF8, _USUAL_DELIMITERS.get(name, AUTO))
    for suffix, name in (
        *(
            (".csv", "csv"),
            (".tsv", "tsv"),
            (".jsonl", "jsonl"),
            (".ndjson", "jsonl"),
            (".parquet", "parquet"),
        ),
        *_COLUMN_SUFFIXES.items(),
    )
}
_FORMAT_WORDS = {
    "jsonl": "JSON lines",
    "json": "one JSON document",
    "conll": "CoNLL columns",
    "conllu": "CoNLL-U",
    "csv": "CSV with {} between values",
    "tsv": "a table with {} between values and no quotes around them",
    "text": "plain text",
    "squad": "SQuAD's JSON",
    "parquet": "Parquet",
}
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "space": " "}  # what users may write in a shell
_DELIMITER_WORDS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes", " ": "spaces"}


class ResolvedSource(NamedTuple):
    """A file, stdin, a stream, a dataset of the hub or records in memory, and how it is read.

    No field of `format` is "auto", except the delimiter of formats that are no tables.
    """

    address: str | files.Stream
    format: FileFormat
    record_filter: str = ""  # conditions on its records, see `filters.filter_records`

    @property
    def name(self) -> str:
        """Returns its name in messages."""
        return files.source_name(self.address) + (f"?{self.record_filter}" if self.record_filter else "")


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
      source: a path, a pattern of several files, "-", a stream in UTF-8, `hub:NAME...`, or `records:NAME...`; with or
        without a filter.
      kind: the kind of the examples.
      format: what the user sets. A stream needs the name of its format, and its delimiter unless it is the usual one.
      log: prints a line about the source.
      keys: names that the columns of a table should have; they help to find the delimiter.

    Raises:
      UserError: a file cannot be read, or its format is not of this kind, cannot be told, or is none of text.
    """
    if format.name not in kind.formats:
        raise UserError(
            f"config.data.format={format.name!r} is not for {kind.noun}s; expected {', '.join(kind.formats)}"
        )
    format = _check_format(format)
    if not isinstance(source, str):
        delimiter = _USUAL_DELIMITERS.get(format.name, AUTO) if format.delimiter == AUTO else format.delimiter
        return [ResolvedSource(source, replace(format, encoding=encodings.UTF8, delimiter=delimiter))]
    if (paths := files.find_files(source)) is not None:
        resolved = [resolve_file(path, kind, format, keys) for path in paths]
        _log_formats(source, resolved, format, log)
        return [ResolvedSource(path, decided) for path, decided in zip(paths, resolved, strict=True)]
    address, record_filter = filters.split_filter(source)
    if format.name == "hub" or address.startswith("hub:"):
        hub = FileFormat("hub", encodings.UTF8, ",", format.max_text)
        return [ResolvedSource(address, hub, record_filter)]
    if address.startswith(in_memory.PREFIX):
        records = FileFormat("records", encodings.UTF8, max_text=format.max_text)
        return [ResolvedSource(address, records, record_filter)]
    files.check_readable(address, kind.demo)
    decided = resolve_file(address, kind, format, keys)
    _log_formats(address, [decided], format, log)
    if record_filter and decided.name in ("text", "conll", "conllu", "squad"):
        raise UserError(
            f"{source}: ?{record_filter} chooses records by a key, which {decided.name} has none of"
        )
    return [ResolvedSource(address, decided, record_filter)]


def resolve_file(path: str, kind: ExampleKind, format: FileFormat, keys: Collection[str] = ()) -> FileFormat:
    """Returns how a file or stdin ("-") is read: `format`, with what the file shows in the place of "auto".

    Raises:
      UserError: the file holds no text, or its format cannot be told.
    """
    format, suffix = _check_format(format), os.path.splitext(path)[1].lower()
    if format.name == "parquet" or (format.name == AUTO and suffix == ".parquet"):
        return replace(format, name="parquet", encoding=encodings.UTF8)
    sample = files.peek(path)
    if format.name == AUTO and sample.startswith(b"PAR1"):
        return replace(format, name="parquet", encoding=encodings.UTF8)
    if description := encodings.describe_binary(sample):
        raise UserError(f"{files.source_name(path)}: {description}")
    encoding = encodings.detect_encoding(sample) if format.encoding == AUTO else format.encoding
    text = encodings.decode_sample(sample, encoding)
    if encodings.has_lone_returns(text):
        text = text.replace("\r", "\n")
    is_complete = path != "-" and len(sample) < files.PEEKED
    name = _name_format(path, suffix, kind, text, is_complete, keys) if format.name == AUTO else format.name
    delimiter = format.delimiter
    if delimiter == AUTO and name == "tsv":
        delimiter = _USUAL_DELIMITERS[name]
    elif delimiter == AUTO and name == "csv":
        delimiter = sniffing.sniff_delimiter(text, keys, "\t" if suffix == ".tsv" else ",")
    if format.name == AUTO and name == "csv" and delimiter == "\t" and suffix != ".csv":
        name = "csv" if sniffing.has_csv_quotes(text, delimiter) else "tsv"
    return replace(format, name=name, encoding=encoding, delimiter=delimiter)


def _check_format(format: FileFormat) -> FileFormat:
    """Returns the format with the delimiter as a character. Raises `UserError` for values that cannot be."""
    if format.encoding != AUTO and not encodings.is_known(format.encoding):
        raise UserError(
            f"config.data.encoding={format.encoding!r}: no encoding that Python knows; expected a name such as utf-8, "
            "cp1252, utf-16 or gb18030"
        )
    delimiter = _DELIMITER_NAMES.get(format.delimiter, format.delimiter)
    if delimiter != AUTO and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(
            f"config.data.delimiter={format.delimiter!r}: expected one character, such as ';', '|' or tab, and no quote"
        )
    return replace(format, delimiter=delimiter)


def _name_format(
    path: str, suffix: str, kind: ExampleKind, text: str, is_complete: bool, keys: Collection[str]
) -> str:
    """Returns the name of a file's format, by the kind of the examples, its suffix and its content.

    Args:
      path: the file, or "-".
      suffix: its suffix.
      kind: the kind of the examples.
      text: the beginning of the file.
      is_complete: True if this is all of it.
      keys: names that the columns of a table should have.

    Returns:
      The name; "csv" for any table.
    """
    json_name = sniffing.sniff_json(text, is_complete=is_complete)
    if json_name == "json" and kind is QUESTIONS and '"paragraphs"' in text:
        json_name = "squad"
    if suffix in _JSON_SUFFIXES:
        return json_name or "jsonl"
    if json_name and (kind is not DOCUMENTS or suffix in _TABLE_SUFFIXES):
        return json_name
    if kind is SENTENCES and suffix != ".csv" and (name := _name_columns(suffix, text, keys)):
        return name
    if suffix in _TABLE_SUFFIXES or (kind is not DOCUMENTS and sniffing.is_table_with(keys, text)):
        return "csv"
    if kind is DOCUMENTS or ("text" in kind.formats and (path == "-" or suffix in _TEXT_SUFFIXES)):
        return "text"
    if path == "-":
        return "jsonl"
    raise UserError(
        f"{path}: neither its suffix nor its content tells its format; set config.data.format to "
        f"{', '.join(name for name in kind.formats if name not in (AUTO, 'hub'))}"
    )


def _name_columns(suffix: str, text: str, keys: Collection[str]) -> str:
    """Returns "conll" or "conllu" for a file with a word a line, or with nothing, and "" for others."""
    if suffix in _COLUMN_SUFFIXES:
        return _COLUMN_SUFFIXES[suffix]
    if not text.strip():
        return "conll"
    has_sentences = re.search(r"\n[ \t]*\r?\n", text)  # divided by blank lines
    if not has_sentences and sniffing.is_table_with(keys, text):
        return ""
    return sniffing.sniff_columns(text) or ("conll" if suffix == ".tsv" else "")


def _log_formats(source: str, formats: Sequence[FileFormat], setting: FileFormat, log: files.Log) -> None:
    """Logs how the files of a source are read where their suffix does not tell it; all ways if they differ."""
    counts = Counter(formats)
    usual = _USUAL_FORMATS.get(os.path.splitext(source)[1].lower(), FileFormat(encoding=encodings.UTF8))
    for format, count in counts.items():
        unset = [
            f"config.data.{setting_name}"
            for setting_name, field in (
                ("format", "name"),
                ("encoding", "encoding"),
                ("delimiter", "delimiter"),
            )
            if getattr(setting, field) == AUTO and getattr(format, field) not in (AUTO, getattr(usual, field))
        ]
        if unset or len(counts) > 1:
            number = f"{count:,} of {len(formats):,} files, " if len(formats) > 1 else ""
            hint = f"; set {' or '.join(unset)} if it is not" if unset else ""
            log(f"{files.source_name(source)}: read as {number}{describe_format(format)}{hint}")


def format_of_suffix(path: str) -> str | None:
    """Returns the name of the format that the suffix of a path alone tells, or None if it tells none."""
    usual = _USUAL_FORMATS.get(os.path.splitext(path)[1].lower())
    return None if usual is None else usual.name


def describe_format(format: FileFormat) -> str:
    """Returns a format in words, such as "a table with semicolons between values, in utf-16"."""
    words = _FORMAT_WORDS[format.name]
    if format.name in ("csv", "tsv"):
        words = words.format(_DELIMITER_WORDS.get(format.delimiter, repr(format.delimiter)))
    return words if encodings.is_utf8(format.encoding) else f"{words}, in {format.encoding}"
