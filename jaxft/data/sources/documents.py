"""Reads data for language models: plain documents, and prompts with their targets."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxft.data.demo import documents as demo_documents
from jaxft.data.demo import ner
from jaxft.data.sources import files, formats
from jaxft.data.sources.examples import admit_examples
from jaxft.data.sources.formats import FileFormat, ResolvedSource
from jaxft.data.sources.records import filters, record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError

KEYS = {"text": "text"}  # the usual keys of a record without a template, by role

_FIELD = re.compile(r"\{([^{}\s][^{}]*)\}")


def _generate_text(split: str) -> Iterator[dict[str, str]]:
    return ({"text": text} for text in demo_documents.generate_documents(split))


# NAME of a corpus `demo:NAME` -> its splits, and a function that generates the records of a split.
_DEMO_CORPORA = {
    "text": (ner.SIZES, _generate_text),
    "headline": (demo_documents.HEADLINES, demo_documents.generate_headlines),
}


@dataclass(frozen=True, slots=True)
class Document:
    """An example: a document, or a prompt and its target."""

    text: str  # the predicted text: the document, or the target
    document: int  # the document's number: 0, 1, 2, ...
    origin: str  # "news.txt:17" (the first line) or "data.jsonl:3", for messages
    prompt: str | None = None  # None for a document
    cuttable: tuple[int, int] = (
        0,
        0,
    )  # start and end (exclusive) of the characters of the prompt that may be cut
    references: tuple[str, ...] = ()  # all correct targets; `text` is the first


def read_documents(
    source: str,
    *,
    format: FileFormat = formats.UNSET,
    documents: str = "line",
    template: str | None = None,
    columns: Mapping[str, str] | None = None,
    log: files.Log = files.log_nothing,
) -> Iterator[Document]:
    """Streams the examples of a source, in its order.

    Args:
      source: a path, or a pattern of several files (see `files.find_files`); "-" for stdin; `demo:text/SPLIT` or
        `demo:headline/SPLIT`; or `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. A filter chooses records:
        `data.jsonl?fold=0-3`.
      format: how files are read; any file that is not of records is text.
      documents: the unit of a text file that is a document: "line", "file", or the line that separates documents, for
        example "<|endoftext|>", or "" for blank lines. Each record is a document.
      template: a template that makes prompts and targets from records, see `Template`; None for plain text.
      columns: {"text": key} if a record's text is not under `text`.
      log: prints a line about the source.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid (raised while reading, with file,
        line or row, and key).
    """
    columns = dict(columns or {})
    if unknown := columns.keys() - KEYS.keys():
        raise UserError(
            f"config.data.columns: {sorted(unknown)} unknown for text; expected {', '.join(KEYS)}"
        )
    if template is None:
        key = columns.get("text", KEYS["text"])
        parse, keys = _plain_parser(key), [key]
    else:
        parse = Template(template).fill
        keys = Template(template).keys
    if source.startswith("demo:"):
        address, record_filter = filters.split_filter(source)
        rows = filters.filter_records(_generate_records(address), record_filter)
        return admit_examples(_number_examples(parse, rows), source, "text", format.max_text)
    resolved = formats.resolve_source(source, formats.DOCUMENTS, format, log, keys=keys)
    texts = [file for file in resolved if file.format.name == "text"]
    if texts and template is not None:
        raise UserError(
            f"{texts[0].address}: plain text, but config.data.template asks for records; give JSON lines, a table or "
            "Parquet, or name the file's format in config.data.format"
        )
    log, numbers = files.log_once(log), itertools.count()

    def read_file(file: ResolvedSource) -> Iterator[Document]:
        if file.format.name == "text":
            examples = _split_documents(file, documents, numbers)
        else:
            rows, _ = read_records(file, formats.DOCUMENTS, log)
            examples = _number_examples(parse, rows, numbers)
        return admit_examples(examples, file.name, "text", file.format.max_text)

    return itertools.chain.from_iterable(files.open_each(read_file, resolved))


def _number_examples(
    parse: Callable[[JsonObject, int, str, str], Document],
    rows: Iterator[record_values.Record],
    numbers: Iterator[int] | None = None,
) -> Iterator[Document]:
    """Yields the examples of records, numbered by `numbers`, by default from 0."""
    numbers = itertools.count() if numbers is None else numbers
    return (parse(record, next(numbers), where, origin) for where, origin, record in rows)


def _generate_records(source: str) -> Iterator[record_values.Record]:
    name, _, split = source.removeprefix("demo:").partition("/")
    if name not in _DEMO_CORPORA or split not in _DEMO_CORPORA[name][0]:
        known = [f"demo:{name}/{split}" for name, (splits, _) in _DEMO_CORPORA.items() for split in splits]
        raise UserError(f"{source}: no such corpus of text; expected {', '.join(known)}")
    _, generate = _DEMO_CORPORA[name]
    rows = enumerate(generate(split), 1)
    return ((f"{source}, row {row}", f"{source}:{row}", record) for row, record in rows)


def _split_documents(source: ResolvedSource, documents: str, numbers: Iterator[int]) -> Iterator[Document]:
    """Yields the documents of a text file. Line ends are kept inside a document and removed at its end."""
    name, first_line = files.source_name(source.address), 1
    lines: list[str] = []

    def finish_document() -> Iterator[Document]:
        text = "".join(lines).rstrip("\r\n")
        lines.clear()
        if text.strip():
            yield Document(text, next(numbers), f"{name}:{first_line}")

    size, max_bytes = 0, source.format.max_text
    for number, line in files.read_lines(source.address, source.format.encoding, max_bytes=max_bytes):
        content = line.rstrip("\r\n")
        is_divider = not content.strip() if documents == "" else content == documents
        if is_divider and documents not in ("line", "file"):
            yield from finish_document()
            continue
        if not lines:
            first_line, size = number, 0
        lines.append(line)
        size += len(line)
        if size > max_bytes:
            raise files.too_long_error(
                f"{name}, line {first_line}: the document that begins there is", max_bytes
            )
        if documents == "line":
            yield from finish_document()
    yield from finish_document()


def _plain_parser(key: str) -> Callable[[JsonObject, int, str, str], Document]:
    """Returns a function like `Template.fill` that makes documents from the texts under `key`."""
    hint = (
        "name the key that holds the text in "
        "config.data.columns=(('text', KEY),), or give config.data.template for prompts and targets"
    )

    def parse(record: JsonObject, document: int, where: str, origin: str) -> Document:
        text = record_values.require_value(record, key, where, hint)
        record_values.check_string(text, where, key)
        return Document(text, document, origin)

    return parse


class Template:
    """A template that makes a prompt and a target from a record, such as "{article}\\nHeadline: {headline}".

    Names in braces are keys of the record; `a.b` is key b of the value under a. The target is the last name, with the
    space before it and all text after it. The rest is the prompt. A prompt that is too long for a window is shortened
    in its longest field. If the target is a list of texts, the first is trained on, and all count as correct.
    """

    def __init__(self, template: str):
        """Parses a template. Raises `UserError` if it has fewer than two names in braces."""
        pieces = _FIELD.split(template)  # literal text, key, literal text, key, ..., literal text
        self._literals, self._keys = pieces[::2], pieces[1::2]
        if len(self._keys) < 2:
            raise UserError(
                f"config.data.template={template!r}: expected at least two names in braces, the last being the "
                "target, such as '{article}\\nHeadline: {headline}'"
            )
        last_literal = self._literals[-2]
        self._literals[-2] = last_literal.rstrip(" ")
        self._before_target = last_literal[len(self._literals[-2]) :]

    def fill(self, record: JsonObject, document: int, where: str, origin: str) -> Document:
        """Makes an example from a record.

        Args:
          record: the record's keys and values.
          document: the number of the example.
          where: the place of the record, for messages.
          origin: the example's origin.

        Raises:
          UserError: the record lacks a key, or a value is not text.
        """
        prompt, cuttable = self.fill_prompt(record, where)
        targets = _read_strings(record, self._keys[-1], where, allow_list=True)
        references = tuple(self._before_target + target + self._literals[-1] for target in targets)
        return Document(references[0], document, origin, prompt, cuttable, references)

    @property
    def keys(self) -> list[str]:
        """Returns the keys of prompt and target."""
        return self._keys

    @property
    def prompt_keys(self) -> list[str]:
        """Returns the keys of the prompt."""
        return self._keys[:-1]

    def fill_prompt(self, record: JsonObject, where: str) -> tuple[str, tuple[int, int]]:
        """Returns a record's prompt, and start and end of the characters that may be cut. Raises as `fill` does."""
        prompt, fields = self._literals[0], []
        for key, literal in zip(self._keys[:-1], self._literals[1:], strict=False):
            [value] = _read_strings(record, key, where, allow_list=False)
            fields.append((len(prompt), len(prompt) + len(value)))
            prompt += value + literal
        return prompt, max(fields, key=lambda field: field[1] - field[0])


def _read_strings(record: JsonObject, key: str, where: str, *, allow_list: bool) -> Sequence[str]:
    """Returns the texts under a key: a single text, or all texts of a list. Numbers become text."""
    value: Any = record
    for step in [key] if key in record else key.split("."):
        if not isinstance(value, dict) or step not in value:
            raise UserError(
                f"{where}: no key {key!r} in {record_values.describe_keys(record)}; config.data.template names it"
            )
        value = value[step]
    if isinstance(value, int | float) and not isinstance(value, bool):
        record_values.check_finite(value, f"{where}, key {key!r}")
        value = str(value)
    values = value if allow_list and isinstance(value, list) and value else [value]
    for value in values:
        record_values.check_string(value, where, key)
    return values
