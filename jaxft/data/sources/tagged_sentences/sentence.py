"""Defines `Sentence`, splits text into words, and tags words by character spans."""

import array
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

Span = tuple[int, int, str]  # (start, end, label), in characters, end exclusive


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a source: its words, their tags if there are any, and its place in the source."""

    words: Sequence[str]
    tags: list[str] | None  # as the source writes them; `tag_schemes` converts them
    document: int  # the document's number: 0, 1, 2, ...
    origin: str  # "train.conll:17" (the first line) or "data.jsonl:3", for messages
    text: str | None = None  # the original text, if the source is text
    offsets: Sequence[tuple[int, int]] | None = None  # characters of each word in `text`, end exclusive
    line_numbers: Sequence[int] | None = None  # lines of the words, in columns

    @property
    def gold_tags(self) -> list[str]:
        """The tags of a sentence that was read with them."""
        assert self.tags is not None, f"{self.origin}: read without tags"
        return self.tags

    def describe_word(self, index: int) -> str:
        """Returns the place of a word, for messages."""
        if self.line_numbers is None:
            return f"word {index + 1} of the sentence at {self.origin}"
        return f"{self.origin.rpartition(':')[0]}, line {self.line_numbers[index]}"


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


_PIECE_CHARACTERS = 1 << 16  # of text that are looked up at a time, as separate strings


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
    return list(_iterate_words(text))


def _iterate_words(text: str) -> Iterator[tuple[int, int]]:
    """Yields the words of `split_words`."""
    pieces = (text[start : start + _PIECE_CHARACTERS] for start in range(0, len(text), _PIECE_CHARACTERS))
    classes = "".join("".join(map(_character_class, piece)) for piece in pieces)
    for match in _WORD.finditer(classes):
        start, end = match.span()
        if end - start > 2 and text[end - 1] in "sS" and text[end - 2] in "'’":
            yield start, end - 2  # Reuters | 's
            yield end - 2, end
        else:
            yield start, end


class WordOffsets(Sequence[tuple[int, int]]):
    """The words of a text as `split_words` returns them, in an array that takes a twentieth of the memory."""

    def __init__(self, text: str):
        self._numbers = array.array("i", itertools.chain.from_iterable(_iterate_words(text)))

    def __len__(self) -> int:
        return len(self._numbers) // 2

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return self._numbers[2 * number], self._numbers[2 * number + 1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


class TextWords(Sequence[str]):
    """The words of a text, each of which takes memory only while it is read."""

    def __init__(self, text: str, offsets: Sequence[tuple[int, int]]):
        self._text, self._offsets = text, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text[start:end] for start, end in self._offsets[index]]
        start, end = self._offsets[index]
        return self._text[start:end]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


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
    offsets: list[tuple[int, int]] = []
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
