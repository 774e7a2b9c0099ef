"""Reads sentences from brat's standoff annotations: a text in NAME.txt and its annotations in NAME.ann.

A line of NAME.ann is `T1<tab>LOC 0 4<tab>Rome`; a span in pieces has `0 4;9 12`. Offsets count characters. The other
lines (relations, events, attributes, notes) are not read. See https://brat.nlplab.org/standoff.html.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxft.data.sources import encodings, files
from jaxft.data.sources.formats import AUTO, FileFormat
from jaxft.data.sources.tagged_sentences.sentence import Sentence, Span, split_words, tag_words
from jaxft.data.sources.tagged_sentences.span_offsets import SpanReader, WrittenSpan, make_character_lookup
from jaxft.errors import UserError

_SPAN = re.compile(
    r"T\S*\t(?P<label>\S+) (?P<pieces>\d{1,15} \d{1,15}(;\d{1,15} \d{1,15})*)(\t(?P<text>.*))?"
)
_KINDS = {
    "R": "relations",
    "E": "events",
    "A": "attributes",
    "M": "attributes",
    "N": "normalizations",
    "#": "notes",
    "*": "equivalences",
}


class _Document(NamedTuple):
    text: str
    spans: list[WrittenSpan]
    name: str  # the path of the annotations


def find_annotations(source: object, format: FileFormat) -> list[str] | None:
    """Returns the paths of a source's annotations NAME.ann, or None if it is not of brat.

    Args:
      source: NAME.ann, NAME.txt next to NAME.ann, a pattern of such files, or a folder with annotations in it or in its
        folders.
      format: what the user sets; a source of another format is not of brat.

    Raises:
      UserError: some texts of a pattern have no annotations.
    """
    if format.name != AUTO or not isinstance(source, str):
        return None
    if os.path.isdir(source):
        return files.find_files(os.path.join(source, "**", "*.ann")) if _has_annotations(source) else None
    paths = files.find_files(source) or [source]
    annotated = [path for path in paths if os.path.isfile(_annotations_of(path))]
    if not annotated or not all(path.endswith((".txt", ".ann")) for path in paths):
        return None
    if missing := sorted(set(paths) - set(annotated)):
        raise UserError(
            f"{missing[0]}: no {_annotations_of(missing[0])}, where {len(annotated):,} other files of {source} have "
            "brat's annotations; name the annotated files, or set config.data.format for texts of another format"
        )
    return sorted({_annotations_of(path) for path in annotated})


def _has_annotations(folder: str) -> bool:
    return any(name.endswith(".ann") for _, _, names in os.walk(folder) for name in names)


def _list_texts_alone(source: str) -> list[str]:
    """Returns the texts without annotations in a folder and its folders; none if the source is no folder."""
    texts = (os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names)
    return sorted(
        path for path in texts if path.endswith(".txt") and not os.path.isfile(_annotations_of(path))
    )


def _annotations_of(path: str) -> str:
    return path.removesuffix(".txt") + ".ann" if path.endswith(".txt") else path


def read_brat(
    paths: Sequence[str], source: str, *, format: FileFormat, span_reader: SpanReader, log: files.Log
) -> Iterator[Sentence]:
    """Yields a sentence for each line of the texts. A span over several lines joins them. A text is a document.

    Logs what is not read.

    Args:
      paths: the annotations, see `find_annotations`.
      source: the source, for the log.
      format: the encoding of the files.
      span_reader: reads the spans of the source.
      log: prints a line about the source.

    Raises:
      UserError: a text is missing, or its annotations are invalid.
    """
    log(f"{source}: brat's annotations of {len(paths):,} text{'s' if len(paths) > 1 else ''}")
    unread: Counter[str] = Counter()
    if texts := _list_texts_alone(source):
        log(f"{source}: texts without annotations NAME.ann are not read ({len(texts):,}, such as {texts[0]})")
    empty_count = 0
    for number, path in enumerate(paths):
        document = _read_document(path, format, span_reader.rules.offsets, unread)
        empty_count += not document.spans
        words = split_words(document.text)
        spans = span_reader.read(document.text, words, document.spans, path)
        yield from _split_lines(document.text, *tag_words(words, spans), spans, number, path)
    span_reader.finish(log)
    if pieces := unread.pop("pieces", 0):
        log(f"{source}: spans in pieces, of which each piece becomes a span of its own: {pieces:,}")
    if empty_count and len(paths) > 1:
        log(f"{source}: texts whose NAME.ann has no span: {empty_count:,}")
    if unread:
        log(f"{source}: not read: {', '.join(f'{count:,} {kind}' for kind, count in unread.items())}")


def _read_document(path: str, format: FileFormat, offsets: str, unread: Counter[str]) -> _Document:
    text_path = path.removesuffix(".ann") + ".txt"
    if not os.path.isfile(text_path):
        raise UserError(
            f"{path}: no {text_path} next to it; brat's annotations need the text that they are of"
        )
    files.check_size(text_path, format.max_text)
    text = _read_text(text_path, format)
    unit = "characters" if offsets == AUTO else offsets
    to_character = make_character_lookup(text, unit)
    spans = []
    for number, line in enumerate(_read_text(path, format).splitlines(), 1):
        if not line.strip():
            continue
        if not line.startswith("T"):
            unread[_KINDS.get(line[0], "other lines")] += 1
            continue
        match = _SPAN.fullmatch(line)
        if match is None or match["label"] == "O":
            raise UserError(
                f"{path}, line {number}: {line[:80]!r} is not a span; expected ID<tab>LABEL START END<tab>TEXT, with a "
                "label that is not O"
            )
        pieces: list[tuple[int, int]] = []
        for piece in match["pieces"].split(";"):
            start, end = map(int, piece.split(" "))
            # brat writes a span over a line break in two pieces.
            if pieces and not text[to_character(pieces[-1][1]) : to_character(start)].strip():
                pieces[-1] = (pieces[-1][0], end)
            else:
                pieces.append((start, end))
        unread["pieces"] += len(pieces) > 1
        covered = match["text"] if len(pieces) == 1 else None
        spans += [WrittenSpan(*piece, match["label"], covered) for piece in pieces]
    return _Document(text, spans, path)


def _read_text(path: str, format: FileFormat) -> str:
    """Returns the text of a file with its line ends, which offsets count, and a space in place of a byte order mark."""
    with open(path, "rb") as file:
        content = file.read()
    encoding = encodings.detect_encoding(content) if format.encoding == AUTO else format.encoding
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(f"{path}: not in {encoding} ({error}); set config.data.encoding") from None
    encodings.encode_text(text, path, encoding)  # a few encodings spell what is no text
    return " " + text[1:] if text.startswith("\ufeff") else text


def _split_lines(
    text: str,
    offsets: Sequence[tuple[int, int]],
    tags: Sequence[str],
    spans: Sequence[Span],
    document: int,
    name: str,
) -> Iterator[Sentence]:
    """Yields the lines of a tagged text that have words. A line break inside a span does not end a line."""
    inside = {position for start, end, _ in spans for position in range(start, end)}
    breaks = [match.end() for match in re.finditer(r"\n", text) if match.start() not in inside]
    word = 0
    for start, end in zip([0, *breaks], [*breaks, len(text)], strict=True):
        first = word
        while word < len(offsets) and offsets[word][0] < end:
            word += 1
        if word == first:
            continue
        places = [(left - start, right - start) for left, right in offsets[first:word]]
        line = text[start:end]
        words = [line[left:right] for left, right in places]
        number = text.count("\n", 0, start) + 1
        origin = f"{name.removesuffix('.ann')}.txt:{number}"
        yield Sentence(words, list(tags[first:word]), document, origin, line, places)
