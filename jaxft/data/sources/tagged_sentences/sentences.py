"""Reads sentences for tagging from any source: files, stdin, the hub and generated corpora."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxft.data.demo import ner, pos, requests
from jaxft.data.sources import files
from jaxft.data.sources.records import filters, record_values
from jaxft.data.sources.tagged_sentences import conll
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.data.sources.tagged_sentences.spans import (
    KEYS,
    parse_sentences,
    read_csv_sentences,
    read_hub_sentences,
    read_jsonl_sentences,
    read_parquet_sentences,
)
from jaxft.errors import UserError

FORMATS = ("auto", "conll", "jsonl", "csv", "parquet", "text", "hub")

_FORMAT_BY_SUFFIX = record_values.FORMAT_BY_SUFFIX | {
    ".conll": "conll",
    ".conllu": "conll",
    ".tsv": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}
_DEMO_CORPORA = {"ner": ner, "pos": pos}


def read_sentences(
    source: str | files.Stream,
    *,
    format: str = "auto",
    word_column: int = 0,
    tag_column: int = -1,
    tagged: bool = True,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    rules: SpanRules = SpanRules(),
    log: Callable[[str], None] = print,
) -> Iterator[Sentence]:
    """Streams the sentences of a source, in its order and in constant memory.

    Args:
      source: a path, or a pattern of several files (see `files.find_files`); "-" for stdin; an open stream, if `format`
        is read line by line; `demo:NAME/train`, `/dev` or `/test` with the name ner, pos or requests; or
        `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`. A filter chooses records: `data.jsonl?fold=0-3`.
      format: one of `FORMATS`. "auto" goes by the suffix. With `tagged`, stdin and unknown suffixes are CoNLL. Without,
        ".txt" and stdin are plain text.
      word_column: the column of the word in CoNLL files, from 0, or from the end if negative.
      tag_column: the column of the tag, counted in the same way.
      tagged: True if tags are read. If False, `tags` is None, and empty records and empty lines become sentences
        without words, so that predictions stay aligned with the input.
      split: the split of a `demo:` or `hub:` source whose address does not name one.
      columns: role -> key of the data, if it differs from `tokens`, `tags` (or `ner_tags`), `text` or `spans`.
      rules: how character spans are written.
      log: prints a line about doubtful data.

    Raises:
      UserError: the source does not exist (raised at once), or its data is invalid or has no sentence (raised while
        reading, with file, line or row, and key).
    """
    columns = dict(columns or {})
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    if unknown := columns.keys() - KEYS.keys():
        raise UserError(f"columns: {sorted(unknown)} unknown; expected {', '.join(KEYS)}")

    if (paths := files.find_files(source)) is not None:
        settings = {"format": format, "word_column": word_column, "tag_column": tag_column, "tagged": tagged}
        return _read_all(paths, settings | {"split": split, "columns": columns, "rules": rules, "log": log})
    address, record_filter = filters.split_filter(source) if isinstance(source, str) else (source, "")
    options = {
        "tagged": tagged,
        "columns": columns,
        "record_filter": record_filter,
        "rules": rules,
        "log": log,
    }
    if isinstance(source, str) and requests.is_requests_source(source):
        sentences = parse_sentences(requests.generate_records(address), **options)
        return files.require_examples(sentences, source, "sentence")
    if isinstance(source, str) and source.startswith("demo:"):
        sentences = _generate_sentences(source, split)
        return sentences if tagged else (replace(sentence, tags=None) for sentence in sentences)
    if format == "hub" or (isinstance(source, str) and source.startswith("hub:")):
        sentences = read_hub_sentences(address, split=split, **options)
        return files.require_examples(sentences, source, "sentence")

    if isinstance(source, str):
        files.check_readable(address, "demo:ner/train")
    if format == "auto":
        format = guess_sentence_format(address, tagged)
    if record_filter and format in ("text", "conll"):
        raise UserError(f"{source}: ?{record_filter} chooses records by a key, which {format} has none of")
    if format == "text":
        if tagged:
            raise UserError(
                f"{source}: plain text has no tags; give CoNLL columns, or text and spans as JSON lines"
            )
        sentences = conll.read_plain_sentences(source, keep_empty=True)
    elif format == "conll":
        sentences = conll.read_conll(
            source, word_column=word_column, tag_column=tag_column if tagged else None
        )
    elif format == "parquet":
        sentences = read_parquet_sentences(address, **options)
    elif format == "csv":
        sentences = read_csv_sentences(address, **options)
    else:
        sentences = read_jsonl_sentences(address, **options)
    return files.require_examples(sentences, source, "sentence")


def _read_all(paths: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Sentence]:
    """Yields the sentences of several files. The numbers of documents continue from file to file."""
    first_document = 0  # the number of the file's first document
    for path in paths:
        document = first_document - 1
        for sentence in read_sentences(path, **settings):
            document = first_document + sentence.document
            yield replace(sentence, document=document)
        first_document = document + 1


def _generate_sentences(source: str, split: str | None) -> Iterator[Sentence]:
    name, _, split_in_address = source.removeprefix("demo:").partition("/")
    split = split_in_address or split
    if name not in _DEMO_CORPORA or split not in _DEMO_CORPORA[name].SIZES:
        known = (f"demo:{name}/{split}" for name, corpus in _DEMO_CORPORA.items() for split in corpus.SIZES)
        raise UserError(f"{source}: no such corpus; expected {', '.join(known)}")
    return _DEMO_CORPORA[name].generate_sentences(split)


def guess_sentence_format(source: str, tagged: bool) -> str:
    """Returns the format of a path, by its suffix, or of stdin; see `read_sentences`.

    Raises `UserError` if the suffix is unknown.
    """
    suffix = os.path.splitext(source)[1].lower()
    if suffix in _FORMAT_BY_SUFFIX:
        return _FORMAT_BY_SUFFIX[suffix]
    if tagged:
        return "conll"  # CoNLL-2003 is distributed as eng.train and train.txt
    if source == "-" or suffix in (".txt", ".text"):
        return "text"
    raise UserError(
        f"{source}: the suffix does not tell its format; set the format to conll, jsonl, csv, parquet or text"
    )
