"""Reads files line by line as UTF-8, and CoNLL columns and plain text from them."""

import re
import sys
from collections.abc import Iterator
from typing import Protocol

from jaxft.data.sources.sentence import Sentence, split_words
from jaxft.errors import UserError

_DOCSTART = "-DOCSTART-"


class Stream(Protocol):
    """An open input: lines of bytes, and the name that messages call it by."""

    name: str

    def __iter__(self) -> Iterator[bytes]:
        """The lines, each with its line end."""


def source_name(source: str | Stream) -> str:
    """How messages call a source: its path or name, or `<stdin>` for "-"."""
    if not isinstance(source, str):
        return source.name
    return "<stdin>" if source == "-" else source


def read_lines(source: str | Stream) -> Iterator[tuple[int, str]]:
    """Yields `(number from 1, line)` of UTF-8: a file, stdin ("-") or a stream; line ends kept, BOM removed.

    Lines end at LF only: other characters that Unicode calls line ends may stand inside a word.
    Raises `UserError` with line and byte where the bytes are not UTF-8.
    """
    opened = open(source, "rb") if isinstance(source, str) and source != "-" else None
    stream = opened or (sys.stdin.buffer if source == "-" else source)
    try:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                if number == 1 and raw.startswith(b"\x1f\x8b"):
                    raise UserError(f"{source_name(source)}: compressed; unpack it with `gunzip`") from None
                utf16 = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
                raise UserError(
                    f"{source_name(source)}, line {number}, byte {error.start + 1} of the line: "
                    f"0x{raw[error.start]:02x} is not UTF-8; convert the file, for example with "
                    f"`iconv -f {'UTF-16' if utf16 else 'ISO-8859-1'} -t UTF-8`"
                ) from None
            yield number, line.removeprefix("\ufeff") if number == 1 else line
    finally:
        if opened:
            opened.close()


def split_columns(line: str) -> list[str]:
    """Columns of a line: by tabs if it holds one (words may then hold spaces), else by runs of spaces."""
    if "\t" in line:
        return line.split("\t")
    return [column for column in line.split(" ") if column]


def read_plain_sentences(source: str | Stream, *, keep_empty: bool) -> Iterator[Sentence]:
    """One sentence a line, each a document; blank lines are sentences without words if `keep_empty`."""
    document = 0
    for number, line in read_lines(source):
        text = line.rstrip("\r\n")
        offsets = split_words(text)
        if offsets or keep_empty:
            words = [text[start:end] for start, end in offsets]
            yield Sentence(words, None, document, f"{source_name(source)}:{number}", text, offsets)
            document += 1


def read_conll(source: str | Stream, *, word_column: int, tag_column: int | None) -> Iterator[Sentence]:
    """Reads one word a line, sentences set apart by blank lines, documents by `-DOCSTART-`.

    Columns count from 0, or from the end if negative. `tag_column` None reads words only.
    Comments (`# ...`) may stand before a sentence: they are the lines that begin with "#" and have
    not as many columns as the sentence below them, so that a word "#" is never lost.
    """
    name = source_name(source)
    wanted = [word_column] if tag_column is None else [word_column, tag_column]
    least = max(index + 1 if index >= 0 else -index for index in wanted)
    if tag_column is not None:
        # Words in 0 and tags in -1 need two columns, else a line's one column would be both.
        least = max(least, 2)
    document, documents_seen, width = 0, False, least

    for block in _blocks(source):
        if block[0][1] == _DOCSTART:
            document += documents_seen
            documents_seen = True
            continue
        rows = [(number, line, split_columns(line)) for number, line in block]
        # The width of the sentence tells its comments from its words.
        width = next((len(row) for _, line, row in rows if not line.startswith("#")), width)
        while rows and _is_comment(rows[0][1], len(rows[0][2]), width):
            rows.pop(0)
        if not rows:
            continue
        documents_seen = True
        for number, line, row in rows:
            _check_columns(name, number, line, row, width, rows[0][0], least, tag_column)
        words = [row[word_column] for _, _, row in rows]
        tags = None if tag_column is None else [row[tag_column].strip() for _, _, row in rows]
        yield Sentence(words, tags, document, f"{name}:{rows[0][0]}")


def _blocks(source: str | Stream) -> Iterator[list[tuple[int, str]]]:
    """Yields runs of lines between blank lines as `(number, line)`; a `-DOCSTART-` line is its own block."""
    block = []
    for number, line in read_lines(source):
        line = line.rstrip("\r\n")
        start = re.match(r"\s*-DOCSTART-(?=\s|$)", line)
        if block and (start or not line.strip()):
            yield block
            block = []
        if start:
            yield [(number, _DOCSTART)]
        elif line.strip():
            block.append((number, line))
    if block:
        yield block


def _is_comment(line: str, found: int, width: int) -> bool:
    # "#tag" alone is a word that lacks its tag, and an error, not a comment.
    return line.startswith("#") and found != width and found > 1


def _check_columns(
    name: str,
    number: int,
    line: str,
    row: list[str],
    width: int,
    first: int,
    least: int,
    tag_column: int | None,
) -> None:
    """Raises `UserError` if a word's line has not the columns that its sentence and the settings ask for."""
    columns_found = f"{name}, line {number}: {len(row)} column{'s' if len(row) != 1 else ''}"
    if len(row) < least:
        raise UserError(
            f"{columns_found}, at least {least} expected, in {line[:60]!r}; write word and tag on the line, "
            "divided by a tab or a space, or set the word and tag columns to those of the file"
        )
    if len(row) != width:
        raise UserError(
            f"{columns_found}, where the sentence that begins at line {first} has {width}, in {line[:60]!r}; "
            "give each word of a sentence the same columns (comments stand before a sentence)"
        )
    if tag_column is not None and not row[tag_column].strip():
        raise UserError(
            f"{name}, line {number}: the tag is empty in column {tag_column} of {line[:60]!r}; "
            "write a tag (O if the word is in no entity) or set the tag column"
        )
