"""Brings spans to characters, whatever their offsets count, and notices spans that do not fit the words of their text.

Tools count offsets in different units (Python in characters, JavaScript and Java in UTF-16 code units, Go and Rust in
bytes), and some write the last position of a span instead of the one after it. Read in the wrong way, a span begins or
ends inside a word. Such spans are counted, and if another way of counting fits the data set, reading stops.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxft.data.sources import files
from jaxft.data.sources.tagged_sentences.sentence import Span, keep_longest_spans
from jaxft.errors import UserError

OFFSETS = ("auto", "characters", "utf16", "bytes")
ENDS = ("auto", "exclusive", "inclusive")
OVERLAPS = ("error", "longest")

_UNIT_NAMES = {"characters": "characters", "utf16": "UTF-16 code units", "bytes": "bytes of UTF-8"}
# Unit -> the encoding in which it has always the same size, and that size.
_ENCODINGS = {"characters": ("utf-32-le", 4), "utf16": ("utf-16-le", 2), "bytes": ("utf-8", 1)}
_OUTSIDE = "lie outside of the text"
_CUTTING = "begin or end inside a word"
_DIFFERENT = "cover another text than the record says"
_SHOWN = 3  # misfits that a message shows
# With fewer misfits than this, a data set is not refused only because most of its spans are misfits.
_MANY = 10


@dataclass(frozen=True)
class SpanRules:
    """Describes how the spans of a data set are written.

    "auto" reads characters and exclusive ends, but refuses data that another way of counting fits better. The other
    values of `offsets` and `end` are not questioned.
    """

    offsets: str = "auto"  # one of OFFSETS
    end: str = "auto"  # one of ENDS
    # One of OVERLAPS: "error" raises for spans that overlap, "longest" keeps the longest.
    overlaps: str = "error"


DEFAULT_RULES = SpanRules()


class WrittenSpan(NamedTuple):
    """A span as a record writes it."""

    start: int
    end: int
    label: str
    text: str | None = None  # what the span covers, if the record repeats it


class _Counting(NamedTuple):
    """A way of counting offsets."""

    offsets: str
    end: str

    def __str__(self) -> str:
        end = "the last position, inclusive" if self.end == "inclusive" else "exclusive"
        return f"`start` counts {_UNIT_NAMES[self.offsets]} from 0 and `end` is {end}"


class SpanReader:
    """Brings the spans of a data set to characters, and counts those that do not fit the words of their text."""

    def __init__(self, rules: SpanRules):
        self.rules = rules
        offsets = OFFSETS[1:] if rules.offsets == "auto" else (rules.offsets,)
        ends = ENDS[1:] if rules.end == "auto" else (rules.end,)
        # The first is the way in which spans are read. A single change comes before two.
        self._countings = sorted(
            itertools.starmap(_Counting, itertools.product(offsets, ends)),
            key=lambda counting: (counting.offsets != offsets[0]) + (counting.end != ends[0]),
        )
        self._misfits: Counter[_Counting] = Counter()
        self._span_count = 0
        self._faults: Counter[str] = Counter()  # kind -> spans that do not fit as they are read
        self._examples: list[str] = []  # the first ones, for messages
        self._first_fault = ""  # its place
        self._dropped = 0  # spans that overlap a longer one

    def read(
        self, text: str, words: Sequence[tuple[int, int]], spans: Sequence[WrittenSpan], where: str
    ) -> list[Span]:
        """Returns the spans of a text in characters, ends exclusive.

        Args:
          text: the text.
          words: the words of the text as `(start, end)` in characters.
          spans: the spans as the record has them.
          where: the place of the record, for messages.

        Raises:
          UserError: a span is not in the text, holds no word or overlaps another one.
        """
        if not spans:
            return []
        self._span_count += len(spans)
        starts, ends = {start for start, _ in words}, {end for _, end in words}
        counting = self._countings[0]
        places = self._count_misfits(text, starts, ends, spans)[counting]
        placed = []
        for span, place in zip(spans, places, strict=True):
            if place is None:
                self._count_fault(_OUTSIDE, f"{span.start}..{span.end} ({span.label})", where)
                raise self._recognized_error() or _outside_error(text, span, counting, where)
            placed.append((*place, span.label))
            if span.text is not None or place[0] not in starts or place[1] not in ends:
                self._notice_fault(text, words, place, span, where)
        if self.rules.overlaps == "longest":
            kept = keep_longest_spans(placed)
            self._dropped += len(placed) - len(kept)
            placed = kept
        if error := _check_spans(text, placed, where):
            raise self._recognized_error() or error
        return placed

    def _count_misfits(
        self, text: str, starts: Collection[int], ends: Collection[int], spans: Sequence[WrittenSpan]
    ) -> dict[_Counting, list[tuple[int, int] | None]]:
        """Counts the spans of a text that do not fit, and returns the places of its spans, for each way of counting."""
        places_by_counting: dict[_Counting, list[tuple[int, int] | None]] = {}
        for counting in self._countings:
            same = _Counting("characters", counting.end)
            if text.isascii() and same in places_by_counting:  # ASCII counts alike in every unit
                places = places_by_counting[same]
            else:
                to_character = make_character_lookup(text, counting.offsets)
                places = [_place_span(span, counting, to_character) for span in spans]
            places_by_counting[counting] = places
            for span, place in zip(spans, places, strict=True):
                if place is None:
                    fits = False
                elif span.text is not None:
                    fits = _is_same_text(text[slice(*place)], span.text)
                else:
                    fits = place[0] in starts and place[1] in ends
                self._misfits[counting] += not fits
        return places_by_counting

    def finish(self, log: files.Log) -> None:
        """Logs the spans that are left out or do not fit the words of their texts, once all spans are read.

        Raises:
          UserError: another way of counting fits the data set, or most of its spans do not fit.
        """
        if error := self._recognized_error():
            raise error
        if self._dropped:
            log(
                f"{self._dropped:,} of {self._span_count:,} spans overlap a longer or an earlier one, and are left out "
                "(config.data.overlaps='longest')"
            )
        if not self._faults:
            return
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self._faults.items())
        description = (
            f"of {self._span_count:,} spans, {counts}: {self._first_fault}: {'; '.join(self._examples)}"
        )
        count = self._faults.total()
        if self.rules.offsets == "auto" and count >= _MANY and 2 * count > self._span_count:
            raise UserError(
                f"{description}; no other way of counting offsets fits them better. {self._countings[0]}: correct the "
                "offsets, or set config.data.offsets=characters if they are right"
            )
        log(f"warning: {description}. Words are split there, so that no span is lost")

    def _notice_fault(
        self,
        text: str,
        words: Sequence[tuple[int, int]],
        place: tuple[int, int],
        span: WrittenSpan,
        where: str,
    ) -> None:
        """Counts a span that begins or ends inside a word, has no word, or covers another text than its record says."""
        start, end = place
        before = next((first for first, last in words if first < start < last), start)
        after = next((last for first, last in words if first < end < last), end)
        differs, expected = False, ""
        if span.text is not None and not _is_same_text(text[start:end], span.text):
            differs, expected = True, f", where the record says {_shorten(span.text)!r}"
        if before < start or end < after or differs or not text[start:end].strip():
            shown = _shorten(f"{text[before:start]}[{text[start:end]}]{text[end:after]}")
            self._count_fault(
                _DIFFERENT if differs else _CUTTING, f"{shown!r} ({span.label}{expected})", where
            )

    def _count_fault(self, kind: str, description: str, where: str) -> None:
        self._faults[kind] += 1
        self._first_fault = self._first_fault or where
        if len(self._examples) < _SHOWN and description not in self._examples:
            self._examples.append(description)

    def _recognized_error(self) -> UserError | None:
        """Returns the error for a data set that another way of counting fits, as far as it is read."""
        usual, *others = self._countings
        # A few spans are wrong or odd in any data set.
        fitting = [other for other in others if 10 * self._misfits[other] <= self._misfits[usual]]
        if not self._faults or not self._misfits[usual] or not fitting:
            return None
        best = min(fitting, key=lambda other: self._misfits[other])
        changes = [
            (name, getattr(usual, field), getattr(best, field))
            for name, field in (("config.data.offsets", "offsets"), ("config.data.span_end", "end"))
            if getattr(usual, field) != getattr(best, field)
        ]
        fits = f"all but {self._misfits[best]:,}" if self._misfits[best] else "all"
        return UserError(
            f"{self._first_fault}: {self._misfits[usual]:,} of {self._span_count:,} spans do not begin and end with "
            f"words: {'; '.join(self._examples)}; {fits} do if {best}: set "
            f"{' '.join(f'{name}={new}' for name, _, new in changes)}, or "
            f"{' '.join(f'{name}={old}' for name, old, _ in changes)} if the spans are right as they are"
        )


def make_character_lookup(text: str, unit: str) -> Callable[[int], int | None]:
    """Returns a function from an offset to the characters before it; None for one inside a character or outside."""
    size = len(text)
    if unit == "characters" or text.isascii():
        return lambda offset: offset if 0 <= offset <= size else None
    encoding, width = _ENCODINGS[unit]
    encoded = text.encode(encoding)

    def count_characters(offset: int) -> int | None:
        if not 0 <= offset * width <= len(encoded):
            return None
        try:
            return len(encoded[: offset * width].decode(encoding))
        except UnicodeDecodeError:
            return None

    return count_characters


def _place_span(
    span: WrittenSpan, counting: _Counting, to_character: Callable[[int], int | None]
) -> tuple[int, int] | None:
    """Returns the first character of a span and the one after its last, or None if these are not in the text."""
    start = to_character(span.start)
    end = to_character(span.end + (counting.end == "inclusive"))
    return None if start is None or end is None or start >= end else (start, end)


def _outside_error(text: str, span: WrittenSpan, counting: _Counting, where: str) -> UserError:
    encoding, width = _ENCODINGS[counting.offsets]
    size = len(text.encode(encoding)) // width
    is_inside = 0 <= span.start < span.end + (counting.end == "inclusive") <= size
    problem = "begins or ends inside a character of" if is_inside else "does not lie in"
    return UserError(
        f"{where}: span {span.start}..{span.end} ({span.label}) {problem} the text of {size} "
        f"{_UNIT_NAMES[counting.offsets]}; {counting}; see config.data.offsets and config.data.span_end"
    )


def _check_spans(text: str, spans: Sequence[Span], where: str) -> UserError | None:
    """Returns the error for a span without a word, or for two that overlap."""
    last = (0, 0, "")
    for start, end, label in sorted(spans):
        if start < last[1]:
            return UserError(
                f"{where}: spans {last[0]}..{last[1]} ({last[2]}) and {start}..{end} ({label}) overlap; "
                "a character can have one label only, so remove one of them, or set config.data.overlaps='longest'"
            )
        if not text[start:end].strip():
            return UserError(f"{where}: span {start}..{end} ({label}) holds whitespace only; remove it")
        last = (start, end, label)
    return None


def _is_same_text(covered: str, expected: str) -> bool:
    """Returns True if two texts differ in white space only; some tools write a line break as a backslash and an n."""
    return re.sub(r"\s|\\n", "", covered) == re.sub(r"\s|\\n", "", expected)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
