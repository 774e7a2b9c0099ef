"""Defines `Sentence`, splits text into words, and tags words by character spans."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int, str]  # (start, end, label), in characters, end exclusive


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a source: its words, their tags if there are any, and its place in the source."""

    words: list[str]
    tags: list[str] | None  # as the source writes them; `tag_schemes` converts them
    document: int  # the document's number: 0, 1, 2, ...
    origin: str  # "train.conll:17" (the first line) or "data.jsonl:3", for messages
    text: str | None = None  # the original text, if the source is text
    offsets: list[tuple[int, int]] | None = None  # characters of each word in `text`, end exclusive
    line_numbers: list[int] | None = None  # lines of the words, if lines without words stand between them


# These characters join a word if a letter or digit follows: O'Brien, well-known, AT&T, 3.5.
_JOINERS = {"'": "'", "’": "'", "-": "-", ".": ".", "&": "&", ",": ","}

# Matches strings of character classes, with one class for each character of the text: "a" letter, "0" digit, "m"
# combining mark or format character, "c" ideograph, " " space, a joiner for itself, "p" anything else.
_WORD = re.compile(
    r"(?<![a0m])(?:am*\.){2,}(?![a0])"  # U.S.
    r"|[a0][a0m]*(?:['.&-][a0][a0m]*|(?<=0),0[a0m]*)*"
    r"|[^ m]m*"  # a single ideograph or sign, with its variation selector
    r"|m+"
)


@functools.lru_cache(maxsize=1 << 16)
def _character_class(character: str) -> str:
    if character in _JOINERS:
        return _JOINERS[character]
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    ideograph = (
        "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    )
    if ideograph and category == "Lo":
        return "c"  # each is a word, as in BERT's tokenizers
    if category[0] == "L" or character == "_":
        return "a"
    if category[0] == "N":
        return "0"
    return "m" if category[0] == "M" or category == "Cf" else "p"


def split_words(text: str) -> list[tuple[int, int]]:
    """Splits text into words, roughly as the Penn Treebank and CoNLL-2003 do.

    Returns the words as `(start, end)` in characters, `end` exclusive, in order and without overlap. Every character
    that is not white space is in exactly one word.
    """
    words = []
    for match in _WORD.finditer("".join(map(_character_class, text))):
        start, end = match.span()
        if end - start > 2 and text[end - 1] in "sS" and text[end - 2] in "'’":
            words += [(start, end - 2), (end - 2, end)]  # Reuters | 's
        else:
            words.append((start, end))
    return words


def keep_longest_spans(spans: Sequence[Span]) -> list[Span]:
    """Drops each span that overlaps a longer span, or an earlier span of the same length.

    Returns the other spans, the longest first.
    """
    kept: list[Span] = []
    for start, end, label in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if all(end <= kept_start or kept_end <= start for kept_start, kept_end, _ in kept):
            kept.append((start, end, label))
    return kept


def tag_words(
    words: Sequence[tuple[int, int]], spans: Sequence[Span]
) -> tuple[list[tuple[int, int]], list[str]]:
    """Tags words in IOB2 by spans.

    A span that begins or ends inside a word splits the word there, so that no span is lost.

    Args:
      words: the words of a text as `(start, end)` in characters.
      spans: spans that do not overlap, each with at least one character of a word.

    Returns:
      (offsets of the words, tags of the words).
    """
    borders = {border for start, end, _ in spans for border in (start, end)}
    offsets = []
    for start, end in words:
        cuts = [start, *sorted(borders.intersection(range(start + 1, end))), end]
        offsets += zip(cuts[:-1], cuts[1:], strict=True)

    tags = ["O"] * len(offsets)
    word = 0
    for start, end, label in sorted(spans):
        while offsets[word][0] < start:
            word += 1
        prefix = "B-"
        while word < len(offsets) and offsets[word][0] < end:
            tags[word] = prefix + label
            prefix = "I-"
            word += 1
    return offsets, tags
