"""Joins the rows of a table with a word a row into sentences."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from jaxft.data.sources.files import Log
from jaxft.data.sources.records.record_values import JsonObject, Record, check_string
from jaxft.data.sources.tagged_sentences.column_layout import (
    SENTENCE_NAMES,
    WORD_NAMES,
    choose_tag_name,
    simplify_name,
)
from jaxft.errors import UserError

SENTENCE = "sentence"  # the role of the column that numbers or names sentences
_SAMPLE = 50  # rows that show whether they hold a word each
_FEWEST = 3
_LIST = re.compile(r"""\[\s*['"].*['"]\s*\]""", re.DOTALL)  # a cell with a list of words


def join_rows(rows: Iterator[Record], columns: Mapping[str, str], name: str, log: Log) -> Iterator[Record]:
    """Returns records with lists of words and tags if the rows hold a word each; otherwise the rows as they are.

    Sentences are told by their column, named in `columns` or by a usual name. A row where it is empty belongs to the
    sentence before it.

    Args:
      rows: the records of a table, or of any other source.
      columns: role -> key of the records: `tokens`, `tags`, `sentence`.
      name: the name of the source, for messages.
      log: prints a line about what was recognised.

    Raises:
      UserError: rows hold a word each, but no column tells their sentences; or a sentence comes twice (raised while
        reading).
    """
    first = list(
        itertools.islice(rows, 1)
    )  # most sources are no such table, which the first record of a pipe shows
    keys = list(first[0][2]) if first else []
    word = _find_key(keys, columns, "tokens", partial(_find_first, WORD_NAMES))
    tag = _find_key(keys, columns, "tags", choose_tag_name)
    sentence = _find_key(keys, columns, SENTENCE, partial(_find_first, SENTENCE_NAMES))
    if sentence in (word, tag) and SENTENCE not in columns:
        sentence = None
    sample = (
        [*first, *itertools.islice(rows, _SAMPLE - 1)] if word and _hold_words(first, word, tag) else first
    )
    rows = itertools.chain(sample, rows)
    if word is None or not _hold_words(sample, word, tag):
        if SENTENCE in columns:
            raise UserError(
                f"{name}: config.data.columns names {columns[SENTENCE]!r} as the column of sentences, but the rows do "
                f"not hold a word each in {word or 'a column of words'!r}; name it with tokens=..."
            )
        return rows
    if sentence is None:
        if len(sample) < _FEWEST or tag is None:
            return rows
        raise UserError(
            f"{name}: each row holds one word in {word!r} and one tag in {tag!r}, and no column tells which words form "
            f"a sentence (there are {', '.join(map(repr, keys))}); name it with config.data.columns=sentence=..., or "
            "set config.data.format=conll if blank lines divide sentences"
        )
    tags = f", tags from {tag!r}" if tag is not None else ""
    log(
        f"{name}: a word in each row, sentences from column {sentence!r}, words from {word!r}{tags} "
        "(config.data.columns=sentence=...,tokens=...,tags=... says otherwise)"
    )
    return _join(rows, sentence, word, tag, columns)


def _find_key(
    keys: Sequence[str],
    columns: Mapping[str, str],
    role: str,
    choose: Callable[[Sequence[str]], int | None],
) -> str | None:
    """Returns the key that the user names for a role, or the one that `choose` finds by its simple name."""
    if role in columns:
        return columns[role] if columns[role] in keys else None
    index = choose([simplify_name(str(key)) for key in keys])
    return None if index is None else keys[index]


def _find_first(usual: Sequence[str], names: Sequence[str]) -> int | None:
    return next((index for index, name in enumerate(names) if name in usual), None)


def _hold_words(rows: Sequence[Record], word: str, tag: str | None) -> bool:
    """Returns True if nearly all records have a single word, and a single tag if there are tags."""

    def is_single(value: Any) -> bool:
        return isinstance(value, str) and len(value.split()) < 2 and not _LIST.fullmatch(value.strip())

    records = [record for _, _, record in rows]
    if any(isinstance(value, list | dict) for record in records for value in record.values()):
        return False
    words = [record.get(word) for record in records]
    singles = sum(map(is_single, words))
    tags_fit = tag is None or all(is_single(record.get(tag)) or record.get(tag) is None for record in records)
    return tags_fit and singles > 0.9 * len(words)


def _join(
    rows: Iterable[Record], sentence: str, word: str, tag: str | None, columns: Mapping[str, str]
) -> Iterator[Record]:
    """Yields a record for each sentence, under the keys by which sentences are read."""
    word_key, tag_key = columns.get("tokens", "tokens"), columns.get("tags", "tags")
    seen: set[str] = set()
    joined: JsonObject = {}
    place: tuple[str, str] | None = None
    current = ""
    for where, origin, record in rows:
        value = _text_of(record.get(sentence))
        if place is None or value not in ("", current):
            if place is not None:
                yield *place, joined
            if value in seen:
                raise UserError(
                    f"{where}: the sentence {value!r} in column {sentence!r} has ended before; sort the rows by "
                    "sentence, and give the sentences of joined files different names"
                )
            seen.add(value)
            place, current = (where, origin), value
            joined = {word_key: [], tag_key: []} if tag is not None else {word_key: []}
        check_string(record.get(word), where, word)
        if not record[word].strip():
            raise UserError(f"{where}: no word in column {word!r}; write the word, or remove the row")
        joined[word_key].append(record[word])
        if tag is not None:
            joined[tag_key].append(record.get(tag))
    if place is not None:
        yield *place, joined


def _text_of(value: Any) -> str:
    """Returns the value of the column of sentences as text; "" for an empty cell."""
    return (
        "" if value is None or value != value else str(value).strip()
    )  # a number that is not one is not itself
