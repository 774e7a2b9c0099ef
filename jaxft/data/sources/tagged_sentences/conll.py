"""Reads sentences from CoNLL columns and from plain text with one sentence per line."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator

from jaxft.data.sources.files import Log, log_nothing, read_lines, source_name, too_long_error
from jaxft.data.sources.formats import ResolvedSource
from jaxft.data.sources.tagged_sentences import column_layout
from jaxft.data.sources.tagged_sentences.column_layout import ColumnLayout, ColumnSettings, is_docstart
from jaxft.data.sources.tagged_sentences.sentence import Sentence, split_words
from jaxft.errors import UserError

Line = tuple[int, str]  # number from 1, text without line end


def read_plain_sentences(source: ResolvedSource, *, keep_empty: bool) -> Iterator[Sentence]:
    """Yields a sentence for each line. Each sentence is its own document.

    A blank line becomes a sentence without words if `keep_empty`; otherwise it is skipped.
    """
    document, name = 0, source_name(source.address)
    format = source.format
    for number, line in read_lines(source.address, format.encoding, max_bytes=format.max_text):
        text = line.rstrip("\r\n")
        offsets = split_words(text)
        if offsets or keep_empty:
            words = [text[start:end] for start, end in offsets]
            yield Sentence(words, None, document, f"{name}:{number}", text, offsets)
            document += 1


def read_layout(source: ResolvedSource, settings: ColumnSettings) -> ColumnLayout | None:
    """Returns the layout of a file from all of its lines; None for stdin, pipes and streams, which are read once."""
    if not isinstance(source.address, str) or not os.path.isfile(source.address):
        return None
    lines = (line for _, line in _read_lines(source))
    return column_layout.find_layout(lines, settings, source.address)


def read_conll(
    source: ResolvedSource,
    settings: ColumnSettings,
    *,
    tagged: bool,
    layout: ColumnLayout | None = None,
    log: Log = log_nothing,
) -> Iterator[Sentence]:
    """Yields the sentences of a file with one word per line.

    A blank line ends a sentence, and so does another value in the column of sentences, if a header names one.
    `-DOCSTART-` begins a document, and in CoNLL-U `# newdoc` does. Comments (`# ...`) may come before a sentence.

    Args:
      source: a file, stdin or a stream.
      settings: what the user says of its columns.
      tagged: True if tags are read.
      layout: the layout of the file; None finds it, for a stream from its first sentence.
      log: prints a line about the layout.

    Raises:
      UserError: a line does not have the columns that its sentence or the settings require.
    """
    name, lines = source_name(source.address), _read_lines(source)
    layout = layout or read_layout(source, settings)
    if layout is None:
        first = list(_take_first_sentence(lines))
        layout = column_layout.find_layout((line for _, line in first), settings, name)
        lines = itertools.chain(first, lines)
    document, document_begun, is_logged = 0, False, False
    for block in _blocks(lines, layout, name, source.format.max_text):
        comments, rows = _split_comments(block, layout)
        if is_docstart(block[0][1]) or any(_begins_document(line, layout) for line in comments):
            document += document_begun
            document_begun = True
        if not rows or is_docstart(block[0][1]):
            continue
        if not is_logged:
            log(f"{name}: {layout.describe(tagged)}")
            is_logged = True
        document_begun = True
        words: list[str] = []
        tags: list[str] = []
        for row in _parse_rows(name, rows, layout, tagged):
            words.append(layout.strip_prefix(row[layout.word]))
            if tagged:
                tags.append(row[layout.tag].strip())
        numbers = [number for number, _ in rows]
        has_gaps = numbers[-1] - numbers[0] >= len(numbers)
        block.clear()  # a sentence may be a whole file, whose lines take three times the memory of its words
        rows.clear()
        yield Sentence(
            words,
            tags if tagged else None,
            document,
            f"{name}:{numbers[0]}",
            line_numbers=numbers if has_gaps else range(numbers[0], numbers[-1] + 1),
        )


def _read_lines(source: ResolvedSource) -> Iterator[Line]:
    format = source.format
    for number, line in read_lines(source.address, format.encoding, max_bytes=format.max_text):
        yield number, line.rstrip("\r\n")


def _take_first_sentence(lines: Iterator[Line]) -> Iterator[Line]:
    """Yields lines up to the blank line after the first sentence."""
    has_words = False
    for number, line in lines:
        yield number, line
        has_words = has_words or bool(line.strip() and not line.startswith("#") and not is_docstart(line))
        if has_words and not line.strip():
            return


def _blocks(lines: Iterable[Line], layout: ColumnLayout, name: str, max_bytes: int) -> Iterator[list[Line]]:
    """Yields the lines of each sentence with the comments before it; a `-DOCSTART-` line is its own block.

    Raises `UserError` for a sentence whose lines have more than `max_bytes` together.
    """
    block: list[Line] = []
    size = 0
    sentence = ""  # the value in the column of sentences
    for number, line in lines:
        is_border = not line.strip() or is_docstart(line)
        if layout.sentence is not None and not is_border and line != layout.header:
            row = layout.split(line)
            value = row[layout.sentence].strip() if layout.sentence < len(row) else ""
            is_border = value not in ("", sentence)  # tables name a sentence at its first word, or at each
            sentence = value or sentence
        if block and is_border:
            yield block
            block, size = [], 0
        if is_docstart(line):
            yield [(number, line)]
        elif line.strip():
            block.append((number, line))
            size += len(line)
            if size > max_bytes:
                where = f"{name}, line {block[0][0]}: the sentence that begins there (blank lines divide sentences) is"
                raise too_long_error(where, max_bytes)
    if block:
        yield block


def _split_comments(block: list[Line], layout: ColumnLayout) -> tuple[list[str], list[Line]]:
    """Returns the comments before a sentence, and the lines of its words."""
    if not layout.header and not block[0][1].startswith("#") and not layout.is_conllu:
        return [], block
    comments, words = [], [(number, line) for number, line in block if layout.holds_word(line)]
    texts = [line for _, line in words]
    while words and layout.is_comment(words[0][1], texts):
        comments.append(words.pop(0)[1])
    return comments, words


def _begins_document(comment: str, layout: ColumnLayout) -> bool:
    return layout.is_conllu and re.match(r"#\s*newdoc\b", comment) is not None


def _parse_rows(name: str, rows: list[Line], layout: ColumnLayout, tagged: bool) -> Iterator[list[str]]:
    """Yields the columns of each of a sentence's lines.

    Raises `UserError` for a line without the columns that its sentence or the settings require.
    """
    columns = [layout.word, layout.tag] if tagged else [layout.word]
    # Words in column 0 and tags in column -1 need two columns; otherwise a single column would be both.
    least = max(index + 1 if index >= 0 else -index for index in columns)
    least = max(least, 2) if tagged else least
    # A word that begins with "#" may be a comment that does not look like one: other words say how many columns.
    usual = next((line for _, line in rows if line[0] != "#"), rows[0][1])
    width = len(layout.split(usual))
    expected = f"where the sentence that begins at line {rows[0][0]} has {width}"
    if layout.is_conllu:
        width, expected = (
            layout.width,
            f"where {'CoNLL-U' if layout.width == 10 else 'the file'} has {layout.width}",
        )
    for number, line in rows:
        row = layout.split(line)
        is_divided_otherwise = (
            "\t" in line.strip() if layout.divider == " " else len(row) == 1 and " " in line
        )
        if is_divided_otherwise and layout.width > 1 and not layout.is_conllu:
            raise UserError(
                f"{name}, line {number}: not divided by {layout.name_divider()} as the first sentence is, in "
                f"{line[:60]!r}; divide all columns of a file in the same way"
            )
        place = f"{name}, line {number}: {len(row)} column{'s' if len(row) != 1 else ''}"
        if len(row) < least:
            raise UserError(
                f"{place}, at least {least} expected, in {line[:60]!r}; write word and tag on the line, "
                f"divided by {layout.name_divider()}, or set config.data.word_column, .tag_column or .delimiter to "
                "those of the file"
            )
        if len(row) != width:
            raise UserError(
                f"{place}, {expected}, in {line[:60]!r}; give each word of a sentence the same columns, divided by "
                f"{layout.name_divider()} (comments stand before a sentence)"
            )
        if tagged and not row[layout.tag].strip():
            raise UserError(
                f"{name}, line {number}: the tag is empty in column {layout.tag} of {line[:60]!r}; "
                "write a tag (O if the word is in no entity) or set the tag column"
            )
        yield row
