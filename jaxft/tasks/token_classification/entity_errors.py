"""Finds the errors of a named-entity tagger (boundary, type, missed, spurious), for seen and unseen entities."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from jaxft.data.sources.records.record_values import JsonObject
from jaxft.metrics.entities import Span, strict_spans

SIDES = ("false_negatives", "false_positives")
CATEGORIES = {"boundary": SIDES, "type": SIDES, "missed": SIDES[:1], "spurious": SIDES[1:]}
COLUMNS = (
    "category",
    "side",
    "seen_in_training_as",
    "sentence",
    "words",
    "type",
    "text",
    "other_type",
    "other_text",
    "context",
)
_CONTEXT = 8  # number of words shown on each side of an entity

EntityTypes = dict[tuple[str, ...], set[str]]  # the words of an entity -> the types with which they occur


def collect_entities(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> EntityTypes:
    """Returns the entities of sentences, which are (words, IOB2 tags), with the types of each entity."""
    entities: EntityTypes = {}
    for words, tags in sentences:
        for kind, first, end in strict_spans(tags):
            entities.setdefault(tuple(words[first:end]), set()).add(kind)
    return entities


@dataclasses.dataclass(frozen=True, slots=True)
class EntityError:
    """A false negative (a gold entity, not predicted) or a false positive (a predicted entity, not gold)."""

    category: str  # one of CATEGORIES
    side: (
        str  # one of SIDES; `span` is a gold entity in false negatives, a predicted entity in false positives
    )
    sentence: int  # the sentence's index in the data
    span: Span  # type, first word, last word + 1
    text: str  # the words of the span
    seen_types: tuple[str, ...]  # the types of exactly these words as an entity of the training set
    other: Span | None  # the entity of the other side for comparison; None for missed and spurious
    other_text: str
    context: str  # the span in brackets, between its neighbouring words

    @property
    def seen(self) -> bool:
        """True if exactly these words are an entity of any type in the training set."""
        return bool(self.seen_types)


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorAnalysis:
    """The errors in the order of the text, and the numbers of gold and predicted entities seen in training."""

    errors: list[EntityError]
    gold: dict[str, int]  # "seen" / "unseen" -> count
    predicted: dict[str, int]

    def counts(self) -> JsonObject:
        """Returns `{"gold": {"seen", "unseen"}, "predicted": ..., CATEGORY: {SIDE: {"seen", "unseen"}}}`.

        "missed" has only false negatives, and "spurious" has only false positives.
        """
        table: JsonObject = {"gold": dict(self.gold), "predicted": dict(self.predicted)}
        for category, sides in CATEGORIES.items():
            table[category] = {side: {"seen": 0, "unseen": 0} for side in sides}
        for error in self.errors:
            table[error.category][error.side]["seen" if error.seen else "unseen"] += 1
        return table


def find_errors(
    words: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    seen: EntityTypes,
) -> ErrorAnalysis:
    """Returns every false negative and false positive of the strict reading, each in exactly one category.

    The category of an error depends on the entities of the other side (the predicted ones for a false negative, the
    gold ones for a false positive):

    - type: an entity of the other side has the same first and last word but another type;
    - boundary: no entity of the other side has the same words, but at least one, of any type, shares a word. `other` is
      the overlapping entity of the same type, else the one with the largest overlap, else the first;
    - missed: a false negative that shares no word with any predicted entity;
    - spurious: a false positive that shares no word with any gold entity.

    A wrong type is therefore one false negative and one false positive, both listed under type. A wrong boundary is
    listed once for each entity on either side. An error is "seen" if the words of its entity, in the same case, are an
    entity of any type in the training set.

    Args:
      words, gold, predicted: a list for each sentence. The gold and predicted tags are IOB2.
      seen: the entities of the training set.

    Raises:
      ValueError: the lists of a sentence differ in length.
    """
    analysis = ErrorAnalysis([], {"seen": 0, "unseen": 0}, {"seen": 0, "unseen": 0})
    for index, (text, gold_tags, predicted_tags) in enumerate(zip(words, gold, predicted, strict=True)):
        if not len(text) == len(gold_tags) == len(predicted_tags):
            raise ValueError(
                f"sentence {index}: {len(text)} words, {len(gold_tags)} gold and {len(predicted_tags)} predicted tags"
            )
        gold_spans, predicted_spans = strict_spans(gold_tags), strict_spans(predicted_tags)
        for side, spans, others, totals in (
            (SIDES[0], gold_spans, predicted_spans, analysis.gold),
            (SIDES[1], predicted_spans, gold_spans, analysis.predicted),
        ):
            for span in spans:
                _, first, end = span
                seen_types = tuple(sorted(seen.get(tuple(text[first:end]), ())))
                totals["seen" if seen_types else "unseen"] += 1
                if span in others:
                    continue
                category, other = _categorise(span, others, "missed" if side == SIDES[0] else "spurious")
                analysis.errors.append(
                    EntityError(
                        category=category,
                        side=side,
                        sentence=index,
                        span=span,
                        text=" ".join(text[first:end]),
                        seen_types=seen_types,
                        other=other,
                        other_text=" ".join(text[other[1] : other[2]]) if other else "",
                        context=_context(text, span),
                    )
                )
    return analysis


def _categorise(span: Span, others: list[Span], without_overlap: str) -> tuple[str, Span | None]:
    """Returns the category of an error, and the entity of the other side for comparison."""
    kind, first, end = span
    overlaps = {other: min(end, other[2]) - max(first, other[1]) for other in others}
    touching = [other for other, shared in overlaps.items() if shared > 0]
    if not touching:
        return without_overlap, None
    for other in touching:
        if other[1:] == (first, end):
            return "type", other
    return "boundary", max(touching, key=lambda other: (other[0] == kind, overlaps[other]))


def _context(words: Sequence[str], span: Span) -> str:
    """Returns the words of `span` in brackets, with `_CONTEXT` words on each side."""
    _, first, end = span
    before = list(words[max(0, first - _CONTEXT) : first])
    after = list(words[end : end + _CONTEXT])
    if first > _CONTEXT:
        before.insert(0, "…")
    if end + _CONTEXT < len(words):
        after.append("…")
    return " ".join([*before, "[" + " ".join(words[first:end]) + "]", *after])


def error_rows(errors: Iterable[EntityError]) -> Iterator[tuple[str, ...]]:
    """Yields the error list as rows of text, with column names first. Sentences and words are counted from 1."""
    yield COLUMNS
    for error in errors:
        kind, first, end = error.span
        yield (
            error.category,
            "gold" if error.side == SIDES[0] else "predicted",
            ",".join(error.seen_types) or "-",
            str(error.sentence + 1),
            f"{first + 1}-{end}",
            kind,
            error.text,
            error.other[0] if error.other else "-",
            error.other_text or "-",
            error.context,
        )
