"""The mergeable state of named-entity recognition: entity scores, strict and lenient, token scores, loss."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from seqeval.scheme import IOB2, Tokens

from jaxft.metrics import bootstrap
from jaxft.metrics.f1 import SCORES, divide, precision_recall_f1
from jaxft.metrics.tokens import TokenState

Span = tuple[str, int, int]  # type, first word, last word + 1


def strict_spans(tags: Sequence[str]) -> list[Span]:
    """Entities of one sentence as seqeval's `mode="strict", scheme=IOB2` sees them: only a B- tag opens one,
    and I- tags that do not continue an entity of their own type belong to none.

    Raises `ValueError` for a tag that is not IOB2. A tag without a type (`B`, `I`) has the type `_`.
    """
    return _spans(tags, _strict_run)


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """Entities of one sentence as conlleval (the script of the CoNLL-2000 and 2003 shared tasks) sees them:
    an I- tag that does not continue an entity of its own type opens a new one.

    This is seqeval's default mode on one sentence; with the tags B, I and O it equals conlleval everywhere
    (it departs from it only for the tags of other schemes, `[ ] E S`, which are refused here, and in calling
    a missing type `_`). Raises `ValueError` for a tag that is not IOB2.
    """
    return _spans(tags, _lenient_run)


def _spans(tags: Sequence[str], spans_of_run: Callable[[tuple[str, ...]], list[Span]]) -> list[Span]:
    # No entity crosses an O, so runs of other tags can be taken one by one. Few distinct runs exist, and
    # remembering them makes seqeval's extraction, which is slow, cost next to nothing.
    spans, first = [], 0
    for outside, group in itertools.groupby(tags, key="O".__eq__):
        run = tuple(group)
        if not outside:
            spans += [(kind, first + start, first + end) for kind, start, end in spans_of_run(run)]
        first += len(run)
    return spans


@functools.lru_cache(maxsize=1 << 14)
def _strict_run(run: tuple[str, ...]) -> list[Span]:
    _require_iob2(run)
    return [(entity.tag, entity.start, entity.end) for entity in Tokens(list(run), IOB2).entities]


@functools.lru_cache(maxsize=1 << 14)
def _lenient_run(run: tuple[str, ...]) -> list[Span]:
    # Not by seqeval's `get_entities`, which brings in scikit-learn, scipy and pandas: seconds of a start.
    _require_iob2(run)
    spans: list[Span] = []
    for place, tag in enumerate(run):
        kind = tag[2:] or "_"
        if tag[0] == "I" and spans and spans[-1][0] == kind:
            spans[-1] = (kind, spans[-1][1], place + 1)
        else:
            spans.append((kind, place, place + 1))
    return spans


def _require_iob2(tags: tuple[str, ...]) -> None:
    for tag in tags:
        if tag not in ("B", "I") and not tag.startswith(("B-", "I-")):
            raise ValueError(f"tag {tag!r} is not IOB2: expected O, B-TYPE or I-TYPE")


@dataclasses.dataclass(slots=True)
class SpanCounts:
    """Numbers of correct, predicted and gold entities for each type, under one way of reading the tags."""

    correct: Counter[str] = dataclasses.field(default_factory=Counter)
    predicted: Counter[str] = dataclasses.field(default_factory=Counter)
    gold: Counter[str] = dataclasses.field(default_factory=Counter)

    def update(self, gold: list[Span], predicted: list[Span]) -> tuple[int, int, int]:
        """Adds one sentence; returns its (correct, predicted, gold) over all types."""
        if not gold and not predicted:
            return 0, 0, 0
        correct = set(gold).intersection(predicted)
        self.correct.update(kind for kind, _, _ in correct)
        self.predicted.update(kind for kind, _, _ in predicted)
        self.gold.update(kind for kind, _, _ in gold)
        return len(correct), len(predicted), len(gold)

    def merge(self, other: "SpanCounts") -> None:
        """Adds the counts of another state to this one."""
        self.correct.update(other.correct)
        self.predicted.update(other.predicted)
        self.gold.update(other.gold)

    def compute(self, prefix: str) -> dict[str, float]:
        """`{prefix}_{precision,recall,f1}` (micro), the same with `_macro` and `_weighted` (by gold support),
        with `/TYPE`, and `{prefix}_support`, `{prefix}_predicted` (entity counts) over all and with `/TYPE`.

        Types are those in gold or prediction, so a type only ever predicted counts as 0 in the macro average,
        as in seqeval. Scores are in [0, 1], 0 where undefined.
        """
        types = sorted(self.gold.keys() | self.predicted.keys())
        correct, predicted, gold = (
            np.array([counts[kind] for kind in types], np.int64)
            for counts in (self.correct, self.predicted, self.gold)
        )
        metrics = {}
        micro = precision_recall_f1(correct.sum(), predicted.sum(), gold.sum())
        per_type = precision_recall_f1(correct, predicted, gold)
        for name, overall, values in zip(SCORES, micro, per_type, strict=True):
            metrics[f"{prefix}_{name}"] = float(overall)
            metrics[f"{prefix}_{name}_macro"] = float(divide(values.sum(), len(types)))
            metrics[f"{prefix}_{name}_weighted"] = float(divide((values * gold).sum(), gold.sum()))
            metrics |= {
                f"{prefix}_{name}/{kind}": float(value) for kind, value in zip(types, values, strict=True)
            }
        for name, values in (("support", gold), ("predicted", predicted)):
            metrics[f"{prefix}_{name}"] = float(values.sum())
            metrics |= {
                f"{prefix}_{name}/{kind}": float(value) for kind, value in zip(types, values, strict=True)
            }
        return metrics


@dataclasses.dataclass(slots=True)
class EntityState:
    """Everything measured about a tagger, in counts: merging the states of any shards of the sentences, in
    any order, gives exactly the numbers of one state over all of them."""

    tokens: TokenState = dataclasses.field(default_factory=TokenState)
    strict: SpanCounts = dataclasses.field(default_factory=SpanCounts)
    lenient: SpanCounts = dataclasses.field(default_factory=SpanCounts)
    # (correct, predicted, gold) of a sentence, strict -> number of sentences with these counts
    sentences: Counter[tuple[int, int, int]] = dataclasses.field(default_factory=Counter)
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[Sequence[str]],
        predicted: Sequence[Sequence[str]],
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
    ) -> None:
        """Adds whole sentences, as one IOB2 tag for each word, and the loss of a batch as sum and weight.

        Sentences and loss may come in separate calls (`update([], [], loss_sum, weight_sum)`). Gold types
        that the model does not know are legal: they count as missed. Raises `ValueError`, leaving the state
        as it was, if the two sides differ in the number of sentences or of words in a sentence, or if a tag
        is not IOB2.
        """
        if len(gold) != len(predicted):
            raise ValueError(f"{len(gold)} gold sentences but {len(predicted)} predicted ones")
        new = EntityState(loss_sums=[float(loss_sum)], weight_sums=[float(weight_sum)])
        for index, (expected, found) in enumerate(zip(gold, predicted, strict=True)):
            if len(expected) != len(found):
                raise ValueError(
                    f"sentence {index}: {len(expected)} gold tags but {len(found)} predicted ones"
                )
            new.tokens.update(expected, found)
            new.lenient.update(lenient_spans(expected), lenient_spans(found))
            new.sentences[new.strict.update(strict_spans(expected), strict_spans(found))] += 1
        self.merge(new)

    def merge(self, other: "EntityState") -> None:
        """Adds another state to this one."""
        self.tokens.merge(other.tokens)
        self.strict.merge(other.strict)
        self.lenient.merge(other.lenient)
        self.sentences.update(other.sentences)
        self.loss_sums += other.loss_sums
        self.weight_sums += other.weight_sums

    def compute(self) -> dict[str, float]:
        """Flat names: `loss` (if any weight was given), `token_*` (see `TokenState`), `entity_*` (strict) and
        `lenient_*` (conlleval); for these two see `SpanCounts.compute`."""
        metrics = {}
        # fsum is exactly rounded, hence independent of the order in which shards were merged.
        if weight := math.fsum(self.weight_sums):
            metrics["loss"] = math.fsum(self.loss_sums) / weight
        return (
            metrics | self.tokens.compute() | self.strict.compute("entity") | self.lenient.compute("lenient")
        )

    def intervals(self, *, samples: int = 10_000, seed: int = 0) -> dict:
        """95% bootstrap intervals of `entity_precision`, `entity_recall` and `entity_f1` (micro, strict),
        with the method, the number of resamples and of sentences: see `bootstrap.percentile_intervals`."""
        return bootstrap.percentile_intervals(self.sentences, prefix="entity", samples=samples, seed=seed)
