"""Reads what language models learn from: plain documents, and prompts with the targets that are to follow them."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxft.data.demo import documents as demo_text
from jaxft.data.demo import ner
from jaxft.data.sources import conll, files, records
from jaxft.data.sources.sentences import check_readable, require_examples
from jaxft.errors import UserError

FORMATS = ("auto", "text", "jsonl", "csv", "parquet", "hub")
KEYS = {"text": "text"}  # what a record of plain text may hold, by role

_FIELD = re.compile(r"\{([^{}\s][^{}]*)\}")
# Records of `demo:NAME`, by split.
_DEMOS = {
    "text": (ner.SIZES, lambda split: ({"text": text} for text in demo_text.generate_documents(split))),
    "headline": (demo_text.HEADLINES, demo_text.generate_headlines),
}


@dataclass(frozen=True, slots=True)
class Document:
    """One example: a document, or a prompt and the target that is to follow it."""

    text: str  # what is predicted: the document, or the target
    document: int  # 0, 1, 2, ...
    origin: str  # "news.txt:17" (the first line) or "data.jsonl:3", for messages
    prompt: str | None = None  # None for a document
    cuttable: tuple[int, int] = (0, 0)  # characters of the prompt that may be shortened, end exclusive
    references: tuple[str, ...] = ()  # all targets that are right, the first being `text`


def read_documents(
    source: str,
    *,
    format: str = "auto",
    documents: str = "line",
    template: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Document]:
    """Streams the examples of a source, in its order.

    Args:
      source: a path, or a pattern of several files, see `files.matching`; "-" for stdin; `demo:text/SPLIT` or
        `demo:headline/SPLIT`; or
        `hub:NAME[:CONFIGURATION][@REVISION]/SPLIT`. Of records some can be chosen: `data.jsonl?fold=0-3`.
      format: one of `FORMATS`. "auto" goes by the suffix, and what is no record format is text.
      documents: what a document of a text file is: "line", "file", or the line that stands between
        documents, for instance "<|endoftext|>"; "" for blank lines. Records are a document each.
      template: makes prompts and targets of records; see `Template`. None for plain text.
      columns: {"text": key} where a record's text is not under `text`.

    Raises:
      UserError: at once for a source that is not there, and while reading for data that is not as it
        should be; with file, line or row, and key.
    """
    columns = dict(columns or {})
    if format not in FORMATS:
        raise UserError(f"config.data.format={format!r}: for text, expected one of {', '.join(FORMATS)}")
    if unknown := columns.keys() - KEYS.keys():
        raise UserError(
            f"config.data.columns: {sorted(unknown)} unknown for text; expected {', '.join(KEYS)}"
        )
    if (names := files.find_files(source)) is not None:
        options = {"format": format, "documents": documents, "template": template, "columns": columns}
        return _of_all(names, options)
    address, choice = records.split_filter(source)
    rows = _records(address, format)
    if rows is None:
        if choice:
            raise UserError(f"{source}: ?{choice} chooses records by a key, which plain text has none of")
        if template is not None:
            raise UserError(
                f"{source}: plain text, but config.data.template asks for records; give JSON lines, CSV or Parquet"
            )
        return require_examples(_documents(source, documents), source, "text")
    make = _plain(columns.get("text", KEYS["text"])) if template is None else Template(template).fill
    examples = (make(record, *place) for place, record in _numbered(records.filter_records(rows, choice)))
    return require_examples(examples, source, "text")


def _of_all(names: Sequence[str], options: Mapping[str, Any]) -> Iterator[Document]:
    examples = (text for name in names for text in read_documents(name, **options))
    return (dataclasses.replace(text, document=number) for number, text in enumerate(examples))


def _records(source: str, format: str) -> Iterator[records.Record] | None:
    """The records of a source; None for a text file."""
    if source.startswith("demo:"):
        return _demo(source)
    if format == "hub" or source.startswith("hub:"):
        return records.read_hub(source if source.startswith("hub:") else f"hub:{source}")[0]
    check_readable(source, "demo:text/train, demo:headline/train")
    if format == "auto":
        format = records.FORMAT_BY_SUFFIX.get(os.path.splitext(source)[1].lower(), "text")
    if format == "text":
        return None
    if format == "parquet":
        return records.read_parquet(source)[0]
    return {"jsonl": records.read_jsonl, "csv": records.read_csv}[format](source)


def _demo(source: str) -> Iterator[records.Record]:
    name, _, split = source.removeprefix("demo:").partition("/")
    if name not in _DEMOS or split not in _DEMOS[name][0]:
        known = [f"demo:{name}/{split}" for name, (splits, _) in _DEMOS.items() for split in splits]
        raise UserError(f"{source}: no such corpus of text; expected {', '.join(known)}")
    made = _DEMOS[name][1](split)
    return ((f"{source}, row {row}", f"{source}:{row}", record) for row, record in enumerate(made, 1))


def _numbered(rows: Iterator[records.Record]) -> Iterator[tuple[tuple[int, str, str], dict]]:
    for document, (where, origin, record) in enumerate(rows):
        yield (document, where, origin), record


def _documents(source: str, documents: str) -> Iterator[Document]:
    """Documents of a text file; line ends within them are kept, those at their end are not."""
    name, count, first, lines = conll.source_name(source), 0, 1, []

    def ended() -> Iterator[Document]:
        nonlocal count
        text = "".join(lines).rstrip("\r\n")
        lines.clear()
        if text.strip():
            yield Document(text, count, f"{name}:{first}")
            count += 1

    for number, line in conll.read_lines(source):
        bare = line.rstrip("\r\n")
        if documents not in ("line", "file") and (bare.strip() if documents == "" else bare) == documents:
            yield from ended()
            continue
        if not lines:
            first = number
        lines.append(line)
        if documents == "line":
            yield from ended()
    yield from ended()


def _plain(key: str):
    def make(record: dict, document: int, where: str, origin: str) -> Document:
        text = record.get(key)
        if key not in record:
            raise UserError(
                f"{where}: no key {key!r} in {sorted(map(str, record))}; name the key that holds the text in "
                "config.data.columns=(('text', KEY),), or give config.data.template for prompts and targets"
            )
        records.check_string(text, where, key)
        return Document(text, document, origin)

    return make


class Template:
    """Makes prompt and target of a record: "{article}\\nHeadline: {headline}".

    Names in braces are keys of the record, `a.b` being key b of what is under a. The last one is the target,
    with the space before it and whatever follows it; the rest is the prompt. A prompt that is too long for a
    window is shortened in its longest field. Where the target is a list of texts the first is learnt, and all
    count as right.
    """

    def __init__(self, template: str):
        parts = _FIELD.split(template)  # text, key, text, key, ..., text
        self._literals, self._keys = parts[::2], parts[1::2]
        if len(self._keys) < 2:
            raise UserError(
                f"config.data.template={template!r}: expected at least two names in braces, the last being the "
                "target, such as '{article}\\nHeadline: {headline}'"
            )
        last = self._literals[-2]
        self._literals[-2] = last.rstrip(" ")
        self._before_target = last[len(self._literals[-2]) :]

    def fill(self, record: dict, document: int, where: str, origin: str) -> Document:
        """The example of a record. Raises `UserError` for a key that it lacks, and values that are no text."""
        prompt, cut = self.fill_prompt(record, where)
        targets = _strings(record, self._keys[-1], where, several=True)
        references = tuple(self._before_target + target + self._literals[-1] for target in targets)
        return Document(references[0], document, origin, prompt, cut, references)

    @property
    def prompt_keys(self) -> list[str]:
        """The keys that the prompt is made of."""
        return self._keys[:-1]

    def fill_prompt(self, record: dict, where: str) -> tuple[str, tuple[int, int]]:
        """The prompt of a record, and its characters that may be shortened; raises as `fill` does."""
        prompt, fields = self._literals[0], []
        for key, literal in zip(self._keys[:-1], self._literals[1:], strict=False):
            value = _strings(record, key, where, several=False)[0]
            fields.append((len(prompt), len(prompt) + len(value)))
            prompt += value + literal
        return prompt, max(fields, key=lambda field: field[1] - field[0])


def _strings(record: dict, key: str, where: str, *, several: bool) -> Sequence[str]:
    value: Any = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(
                f"{where}: no key {key!r} in {sorted(map(str, record))}; config.data.template names it"
            )
        value = value[part]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    values = value if several and isinstance(value, list) and value else [value]
    for value in values:
        records.check_string(value, where, key)
    return values


def cut_document(whole: Document, fraction: float) -> tuple[Document, Document]:
    """A document without its end, and its end, from the line (or word) nearest to `fraction` of it: `(train, dev)`."""
    text, at = whole.text, round(len(whole.text) * (1 - fraction))
    for border in ("\n", " ", ""):
        cut = text.rfind(border, 0, at) + len(border)
        if 0 < cut < len(text) and text[:cut].strip() and text[cut:].strip():
            break
    else:
        raise UserError("the training data is a single short text: no dev set can be split off; name one")
    return Document(text[:cut], 0, whole.origin), Document(text[cut:], 0, whole.origin)
