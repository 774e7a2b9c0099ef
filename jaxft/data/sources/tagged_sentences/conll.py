"""Reads sentences from CoNLL columns and from plain text with one sentence per line."""

import re
from collections.abc import Iterator

from jaxft.data.sources.files import read_lines, source_name
from jaxft.data.sources.formats import ResolvedSource
from jaxft.data.sources.tagged_sentences.sentence import Sentence, split_words
from jaxft.errors import UserError

_DOCSTART = "-DOCSTART-"


def split_columns(line: str) -> list[str]:
    """Splits a line into columns: at tabs if it has any (words may then contain spaces), else at runs of spaces."""
    if "\t" in line:
        return line.split("\t")
    return [column for column in line.split(" ") if column]


def read_plain_sentences(source: ResolvedSource, *, keep_empty: bool) -> Iterator[Sentence]:
    """Yields a sentence for each line. Each sentence is its own document.

    A blank line becomes a sentence without words if `keep_empty`; otherwise it is skipped.
    """
    document, name = 0, source_name(source.address)
    for number, line in read_lines(source.address, source.format.encoding):
        text = line.rstrip("\r\n")
        offsets = split_words(text)
        if offsets or keep_empty:
            words = [text[start:end] for start, end in offsets]
            yield Sentence(words, None, document, f"{name}:{number}", text, offsets)
            document += 1


def read_conll(source: ResolvedSource, *, word_column: int, tag_column: int | None) -> Iterator[Sentence]:
    """Yields the sentences of a file with one word per line.

    A blank line ends a sentence, and `-DOCSTART-` begins a document.

    Comments (`# ...`) may come before a sentence. A line that begins with "#" is a comment if its number of columns
    differs from that of the sentence below it, so a word "#" is never lost.

    Args:
      source: a file, stdin or a stream.
      word_column: the column of the word, from 0, or from the end if negative.
      tag_column: the column of the tag, counted in the same way; None reads words only.

    Raises:
      UserError: a line does not have the columns that its sentence or these arguments require.
    """
    name = source_name(source.address)
    columns = [word_column] if tag_column is None else [word_column, tag_column]
    least = max(index + 1 if index >= 0 else -index for index in columns)
    if tag_column is not None:
        # Words in column 0 and tags in column -1 need two columns; otherwise a single column would be both.
        least = max(least, 2)
    document, document_begun, width = 0, False, least

    for block in _blocks(source):
        if block[0][1] == _DOCSTART:
            if document_begun:
                document += 1
            document_begun = True
            continue
        rows = [(number, line, split_columns(line)) for number, line in block]
        # The sentence's number of columns distinguishes comments from words.
        width = next((len(row) for _, line, row in rows if not line.startswith("#")), width)
        while rows and _is_comment(rows[0][1], len(rows[0][2]), width):
            rows.pop(0)
        if not rows:
            continue
        document_begun = True
        for number, line, row in rows:
            _check_columns(name, number, line, row, width, rows[0][0], least, tag_column)
        words = [row[word_column] for _, _, row in rows]
        tags = None if tag_column is None else [row[tag_column].strip() for _, _, row in rows]
        yield Sentence(words, tags, document, f"{name}:{rows[0][0]}")


def _blocks(source: ResolvedSource) -> Iterator[list[tuple[int, str]]]:
    """Yields the blocks between blank lines as lists of `(number, line)`; a `-DOCSTART-` line is its own block."""
    block = []
    for number, line in read_lines(source.address, source.format.encoding):
        line = line.rstrip("\r\n")
        begins_document = re.match(r"\s*-DOCSTART-(?=\s|$)", line)
        if block and (begins_document or not line.strip()):
            yield block
            block = []
        if begins_document:
            yield [(number, _DOCSTART)]
        elif line.strip():
            block.append((number, line))
    if block:
        yield block


def _is_comment(line: str, column_count: int, width: int) -> bool:
    # A lone "#tag" is a word without its tag, which is an error and not a comment.
    return line.startswith("#") and column_count != width and column_count > 1


def _check_columns(
    name: str,
    number: int,
    line: str,
    row: list[str],
    width: int,
    first_number: int,
    least: int,
    tag_column: int | None,
) -> None:
    """Raises `UserError` if a word's line lacks the columns that its sentence or the settings require.

    Args:
      name: the source, for messages.
      number: the line's number.
      line: the line.
      row: its columns.
      width: the number of columns in the sentence.
      first_number: the number of the sentence's first line.
      least: the number of columns that the settings need.
      tag_column: the column that must not be empty, if any.
    """
    columns_found = f"{name}, line {number}: {len(row)} column{'s' if len(row) != 1 else ''}"
    if len(row) < least:
        raise UserError(
            f"{columns_found}, at least {least} expected, in {line[:60]!r}; write word and tag on the line, "
            "divided by a tab or a space, or set the word and tag columns to those of the file"
        )
    if len(row) != width:
        raise UserError(
            f"{columns_found}, where the sentence that begins at line {first_number} has {width}, in {line[:60]!r}; "
            "give each word of a sentence the same columns (comments stand before a sentence)"
        )
    if tag_column is not None and not row[tag_column].strip():
        raise UserError(
            f"{name}, line {number}: the tag is empty in column {tag_column} of {line[:60]!r}; "
            "write a tag (O if the word is in no entity) or set the tag column"
        )
