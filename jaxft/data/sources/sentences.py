"""Finds out what a data source is, streams its sentences, and splits and compares sets of them."""

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxft.data.demo import ner, pos, requests
from jaxft.data.sources import conll, files, records
from jaxft.data.sources.sentence import Sentence, split_words
from jaxft.data.sources.spans import (
    KEYS,
    parse_sentences,
    read_csv_sentences,
    read_hub_sentences,
    read_jsonl_sentences,
    read_parquet_sentences,
)
from jaxft.errors import UserError

__all__ = [
    "FORMATS",
    "Sentence",
    "find_sentence_overlap",
    "read_sentences",
    "split_dev_sentences",
    "split_words",
]

FORMATS = ("auto", "conll", "jsonl", "csv", "parquet", "text", "hub")

_SUFFIXES = records.FORMAT_BY_SUFFIX | {
    ".conll": "conll",
    ".conllu": "conll",
    ".tsv": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}


def read_sentences(
    source: str | conll.Stream,
    *,
    format: str = "auto",
    word_column: int = 0,
    tag_column: int = -1,
    tagged: bool = True,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    overlaps: str = "error",
) -> Iterator[Sentence]:
    """Streams the sentences of a source, in its order and in constant memory.

    Args:
      source: a path, or a pattern of several files, see `files.matching`; "-" for stdin; an open stream (the format
        named, one that is read by lines); `demo:NAME/train`, `/dev` or `/test` of ner, pos and requests; or
        `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`. Of records some can be chosen: `data.jsonl?fold=0-3`.
      format: one of `FORMATS`. "auto" goes by the suffix; any other suffix, and stdin, is CoNLL if
        `tagged`, and ".txt" and stdin are plain text if not.
      word_column: column of the word in CoNLL files, from 0, or from the end if negative.
      tag_column: column of the tag, likewise.
      tagged: whether tags are asked for. If not, `tags` is None, and empty records and lines of text
        come as sentences without words, so that predictions stay aligned with the input.
      split: the split of a `demo:` or `hub:` source whose address does not name one.
      columns: keys of records where they differ from `tokens`, `tags` (or `ner_tags`), `text`, `spans`:
        a mapping from these to the keys of the data.
      overlaps: of spans of characters: an "error", or the "longest" counts.

    Raises:
      UserError: at once for a source that is not there, and while reading for data that is not as it
        should be or that holds no sentence; with file, line or row, and key.
    """
    columns = dict(columns or {})
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    if unknown := columns.keys() - KEYS.keys():
        raise UserError(f"columns: {sorted(unknown)} unknown; expected {', '.join(KEYS)}")

    if (names := files.find_files(source)) is not None:
        settings = {"format": format, "word_column": word_column, "tag_column": tag_column, "tagged": tagged}
        return _of_all(names, settings | {"split": split, "columns": columns, "overlaps": overlaps})
    address, choice = records.split_filter(source) if isinstance(source, str) else (source, "")
    options = {"tagged": tagged, "columns": columns, "choice": choice, "overlaps": overlaps}
    if isinstance(source, str) and requests.is_requests_source(source):
        return require_examples(
            parse_sentences(requests.generate_records(address), **options), source, "sentence"
        )
    if isinstance(source, str) and source.startswith("demo:"):
        sentences = _demo(source, split)
        return sentences if tagged else (replace(sentence, tags=None) for sentence in sentences)
    if format == "hub" or (isinstance(source, str) and source.startswith("hub:")):
        address = address if address.startswith("hub:") else f"hub:{address}"
        sentences = read_hub_sentences(address, split=split, **options)
        return require_examples(sentences, source, "sentence")

    if isinstance(source, str):
        check_readable(address, "demo:ner/train")
    if format == "auto":
        format = guess_sentence_format(address, tagged)
    if choice and format in ("text", "conll"):
        raise UserError(f"{source}: ?{choice} chooses records by a key, which {format} has none of")
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
    else:
        reader = {"jsonl": read_jsonl_sentences, "csv": read_csv_sentences}[format]
        sentences = reader(address, **options)
    return require_examples(sentences, source, "sentence")


def _of_all(names: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Sentence]:
    first = 0  # the number of a file's first document
    for name in names:
        number = first - 1
        for sentence in read_sentences(name, **settings):
            number = first + sentence.document
            yield replace(sentence, document=number)
        first = number + 1


def _demo(source: str, split: str | None) -> Iterator[Sentence]:
    name, _, named = source.removeprefix("demo:").partition("/")
    corpora = {"ner": ner, "pos": pos}
    split = named or split
    if name not in corpora or split not in corpora[name].SIZES:
        known = (f"demo:{name}/{split}" for name, corpus in corpora.items() for split in corpus.SIZES)
        raise UserError(f"{source}: no such corpus; expected {', '.join(known)}")
    return corpora[name].generate_sentences(split)


def check_readable(source: str, demo: str) -> None:
    """Raises `UserError` where `source` is no file that can be read, nor "-"; `demo` is named as another choice."""
    if source == "-":
        return
    if not os.path.exists(source):
        raise UserError(
            f"{source}: no such file (in {os.getcwd()}); "
            f"expected a path, {demo}, or hub:NAME/SPLIT for a dataset of the Hugging Face hub"
        )
    if os.path.isdir(source):
        raise UserError(f"{source}: a folder, where a data file was expected; name a file in it")
    if not os.access(source, os.R_OK):
        raise UserError(f"{source}: the file may not be read; check its permissions (`ls -l`)")


def guess_sentence_format(source: str, tagged: bool) -> str:
    """The format of a path or of stdin, by its suffix; see `read`. `UserError` where that does not tell."""
    suffix = os.path.splitext(source)[1].lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if tagged:
        return "conll"  # CoNLL-2003 itself comes as eng.train and train.txt
    if source == "-" or suffix in (".txt", ".text"):
        return "text"
    raise UserError(
        f"{source}: the suffix does not tell its format; set the format to conll, jsonl, csv, parquet or text"
    )


def require_examples(examples: Iterator, source: str | conll.Stream, what: str) -> Iterator:
    """The examples as they are. Raises `UserError` at the end where there was none; `what` they are."""
    empty = True
    for example in examples:
        empty = False
        yield example
    if empty:
        raise UserError(
            f"{conll.source_name(source)}: empty, it holds no {what}; name a source that has some"
        )


def split_dev_sentences(
    sentences: Sequence[Sentence], fraction: float, seed: int
) -> tuple[list[Sentence], list[Sentence]]:
    """Splits off a development set of about `fraction` of the sentences: returns `(train, dev)`; see `choose_dev`."""
    chosen = choose_dev_examples([sentence.document for sentence in sentences], fraction, seed)
    train = [sentence for sentence, is_dev in zip(sentences, chosen, strict=True) if not is_dev]
    dev = [sentence for sentence, is_dev in zip(sentences, chosen, strict=True) if is_dev]
    return train, dev


def choose_dev_examples(documents: Sequence[int], fraction: float, seed: int) -> list[bool]:
    """Which of the sentences, of whose documents the numbers are given, make a development set of about `fraction`.

    If the sentences come from several documents, each document stays whole. The choice is a function of the
    sentences' documents, `fraction` and `seed` only.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the dev fraction is {fraction}; expected a number between 0 and 1, such as 0.1")
    if len(documents) < 2:
        raise UserError(
            f"{len(documents)} sentence in the training data: none can be split off for evaluation; "
            "add data, or name a dev set"
        )
    groups = documents if len(set(documents)) > 1 else list(range(len(documents)))
    sizes = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    order = sorted(sizes)
    random.Random(seed).shuffle(order)

    target, held, chosen = fraction * len(documents), 0, set()
    for group in order:
        # Takes a document if that brings the size nearer to the target, so that a large one is passed over.
        if len(chosen) < len(order) - 1 and abs(held + sizes[group] - target) < target - held:
            chosen.add(group)
            held += sizes[group]
    if not chosen:
        chosen = {min(order, key=sizes.get)}
    return [group in chosen for group in groups]


def find_sentence_overlap(train: Iterable[Sentence], dev: Iterable[Sentence]) -> np.ndarray:
    """Which sentences of `dev` have a sequence of words that also stands in `train`: bool `[N]`."""
    seen = {tuple(sentence.words) for sentence in train}
    return np.fromiter((bool(s.words) and tuple(s.words) in seen for s in dev), bool)
