"""Brings spans to characters, whatever their offsets count, and notices spans that do not fit the words of their text.

Tools count offsets in different units (Python in characters, JavaScript and Java in UTF-16 code units, Go and Rust in
bytes), and some write the last position of a span instead of the one after it. Read in the wrong way, a span begins or
ends inside a word. Such spans are counted, and if another way of counting fits the data set, reading stops.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxft.data.sources import files
from jaxft.data.sources.tagged_sentences.sentence import Span, keep_longest_spans
from jaxft.errors import UserError

OFFSETS = ("auto", "characters", "utf16", "bytes")
ENDS = ("auto", "exclusive", "inclusive")
OVERLAPS = ("error", "longest")

_UNIT_NAMES = {"characters": "characters", "utf16": "UTF-16 code units", "bytes": "bytes of UTF-8"}
_SHOWN = 3  # misfits that a message shows
_MANY = (
    10  # with fewer misfits than this, a data set is not refused only because most of its spans are misfits
)


@dataclass(frozen=True)
class SpanRules:
    """Describes how the spans of a data set are written.

    "auto" reads characters and exclusive ends, but refuses data that another way of counting fits better. The other
    values of `offsets` and `end` are not questioned.
    """

    offsets: str = "auto"  # one of OFFSETS
    end: str = "auto"  # one of ENDS
    overlaps: str = (
        "error"  # one of OVERLAPS: "error" raises for spans that overlap, "longest" keeps the longest
    )


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
        self._cut_count = 0
        self._cuts: list[str] = []  # the first ones, for messages
        self._first_cut = ""  # its place

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
        starts, ends = {start for start, _ in words}, {end for _, end in words}
        positions = character_positions(text, {counting.offsets for counting in self._countings})
        self._span_count += len(spans)
        for counting in self._countings:
            for span in spans:
                place = _place_span(span, counting, positions)
                fits = place is not None and (
                    place[0] in starts and place[1] in ends
                    if span.text is None
                    else _is_same_text(text[slice(*place)], span.text)
                )
                self._misfits[counting] += not fits

        counting = self._countings[0]
        placed = []
        for span in spans:
            place = _place_span(span, counting, positions)
            if place is None:
                self._count_cut(f"{span.start}..{span.end} ({span.label})", where)
                raise self._recognized_error() or _outside_error(span, counting, positions, where)
            placed.append((*place, span.label))
            self._notice_cut(text, words, place, span, where)
        if self.rules.overlaps == "longest":
            placed = keep_longest_spans(placed)
        if error := _check_spans(text, placed, where):
            raise self._recognized_error() or error
        return placed

    def finish(self, log: files.Log) -> None:
        """Logs the spans that do not fit the words of their texts, once all spans are read.

        Raises:
          UserError: another way of counting fits the data set, or most of its spans do not fit.
        """
        if error := self._recognized_error():
            raise error
        if not self._cut_count:
            return
        counts = f"{self._cut_count:,} of {self._span_count:,} spans begin or end inside a word"
        examples = "; ".join(self._cuts)
        if (
            self.rules.offsets == "auto"
            and self._cut_count >= _MANY
            and 2 * self._cut_count > self._span_count
        ):
            raise UserError(
                f"{self._first_cut}: {counts}, and no other way of counting offsets fits them: {examples}; "
                f"{self._countings[0]}: correct the offsets, or set config.data.offsets=characters if they are right"
            )
        log(
            f"warning: {counts}, which is split there so that the span is kept: {self._first_cut}: {examples}"
        )

    def _notice_cut(
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
        differs = span.text is not None and not _is_same_text(text[start:end], span.text)
        if before < start or end < after or differs or not text[start:end].strip():
            expected = f", where the record says {span.text[:40]!r}" if differs else ""
            shown = f"{text[before:start]}[{text[start:end]}]{text[end:after]}"
            self._count_cut(f"{_shorten(shown)!r} ({span.label}{expected})", where)

    def _count_cut(self, description: str, where: str) -> None:
        self._cut_count += 1
        self._first_cut = self._first_cut or where
        if len(self._cuts) < _SHOWN and description not in self._cuts:
            self._cuts.append(description)

    def _recognized_error(self) -> UserError | None:
        """Returns the error for a data set that another way of counting fits, as far as it is read."""
        usual, *others = self._countings
        # A few spans are wrong or odd in any data set.
        fitting = [other for other in others if 10 * self._misfits[other] <= self._misfits[usual]]
        if not self._cut_count or not self._misfits[usual] or not fitting:
            return None
        best = min(fitting, key=lambda other: self._misfits[other])
        changes = [
            (name, getattr(usual, field), getattr(best, field))
            for name, field in (("config.data.offsets", "offsets"), ("config.data.span_end", "end"))
            if getattr(usual, field) != getattr(best, field)
        ]
        others = f"all but {self._misfits[best]:,}" if self._misfits[best] else "all"
        return UserError(
            f"{self._first_cut}: {self._misfits[usual]:,} of {self._span_count:,} spans do not begin and end with "
            f"words: {'; '.join(self._cuts)}; {others} do if {best}: set "
            f"{' '.join(f'{name}={new}' for name, _, new in changes)}, or "
            f"{' '.join(f'{name}={old}' for name, old, _ in changes)} if the spans are right as they are"
        )


def character_positions(text: str, units: Collection[str]) -> dict[str, Mapping[int, int]]:
    """Returns unit -> offset -> characters before it, for the offsets that lie between two characters."""
    same = {index: index for index in range(len(text) + 1)}
    sizes = {
        "utf16": lambda character: 1 + (character > "\uffff"),
        "bytes": lambda character: len(character.encode()),
    }
    return {
        unit: same
        if unit == "characters" or text.isascii()
        else {
            offset: index
            for index, offset in enumerate(itertools.accumulate(map(sizes[unit], text), initial=0))
        }
        for unit in units
    }


def _place_span(
    span: WrittenSpan, counting: _Counting, positions: Mapping[str, Mapping[int, int]]
) -> tuple[int, int] | None:
    """Returns the first character of a span and the one after its last, or None if these are not in the text."""
    to_character = positions[counting.offsets]
    start = to_character.get(span.start)
    end = to_character.get(span.end + (counting.end == "inclusive"))
    return None if start is None or end is None or start >= end else (start, end)


def _outside_error(
    span: WrittenSpan, counting: _Counting, positions: Mapping[str, Mapping[int, int]], where: str
) -> UserError:
    size = max(positions[counting.offsets])
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
