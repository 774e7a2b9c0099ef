"""Measures named-entity recognition: strict and lenient entity scores, token scores and loss, as a mergeable state."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from seqeval.scheme import IOB2, Tokens

from jaxft.metrics import bootstrap
from jaxft.metrics.f1 import SCORES, divide, precision_recall_f1
from jaxft.metrics.tokens import TokenState

Span = tuple[str, int, int]  # type, first word, last word + 1


def strict_spans(tags: Sequence[str]) -> list[Span]:
    """Returns the entities of one sentence, as in seqeval's `mode="strict", scheme=IOB2`.

    Only a B- tag begins an entity. An I- tag that does not continue an entity of its type belongs to no entity. A tag
    without a type (`B`, `I`) has the type `_`.

    Raises:
      ValueError: a tag is not IOB2.
    """
    return _find_spans(tags, _strict_spans_of_run)


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """Returns the entities of one sentence, as in conlleval of the CoNLL-2000 and 2003 shared tasks.

    An I- tag that does not continue an entity of its type begins a new one. On one sentence, this is seqeval's default
    mode. With the tags B, I and O it equals conlleval. There are two differences: tags of other schemes (`[ ] E S`) are
    refused, and a missing type is called `_`.

    Raises:
      ValueError: a tag is not IOB2.
    """
    return _find_spans(tags, _lenient_spans_of_run)


def _find_spans(tags: Sequence[str], spans_of_run: Callable[[tuple[str, ...]], list[Span]]) -> list[Span]:
    # No entity crosses an O, so each run of other tags can be read independently. There are few distinct runs, so
    # caching their spans hides the cost of seqeval's slow extraction.
    spans, first = [], 0
    for outside, group in itertools.groupby(tags, key="O".__eq__):
        run = tuple(group)
        if not outside:
            spans += [(kind, first + start, first + end) for kind, start, end in spans_of_run(run)]
        first += len(run)
    return spans


@functools.lru_cache(maxsize=1 << 14)
def _strict_spans_of_run(run: tuple[str, ...]) -> list[Span]:
    _require_iob2(run)
    return [(entity.tag, entity.start, entity.end) for entity in Tokens(list(run), IOB2).entities]


@functools.lru_cache(maxsize=1 << 14)
def _lenient_spans_of_run(run: tuple[str, ...]) -> list[Span]:
    # seqeval's `get_entities` would import scikit-learn, scipy and pandas, which takes seconds.
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
    """The numbers of correct, predicted and gold entities of each type, under the strict or the lenient reading."""

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
        """Returns the scores by flat name, in [0, 1]. Undefined scores are 0.

        - `{prefix}_{precision,recall,f1}`: micro averages. The same with `_macro`, `_weighted` (by gold support) and
          `/TYPE`. A type counts if it occurs in gold or in predictions; a type that is only predicted counts as 0 in
          the macro average, as in seqeval.
        - `{prefix}_support`, `{prefix}_predicted`: the number of entities of all types, and with `/TYPE` of one type.
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
    """The counts from which all metrics of an entity tagger are computed.

    States of any shards of the sentences, merged in any order, give exactly the same numbers as a single state.
    """

    tokens: TokenState = dataclasses.field(default_factory=TokenState)
    strict: SpanCounts = dataclasses.field(default_factory=SpanCounts)
    lenient: SpanCounts = dataclasses.field(default_factory=SpanCounts)
    # strict (correct, predicted, gold) of a sentence -> number of sentences with these counts
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
        """Adds complete sentences, with an IOB2 tag for each word, and the loss of a batch as sum and weight.

        Sentences and loss may be added in separate calls (`update([], [], loss_sum, weight_sum)`). Gold types that the
        model does not know are allowed and count as missed.

        Raises:
          ValueError: gold and predicted differ in the number of sentences or of words in a sentence, or a tag is not
            IOB2. The state is then unchanged.
        """
        if len(gold) != len(predicted):
            raise ValueError(f"{len(gold)} gold sentences but {len(predicted)} predicted ones")
        batch_state = EntityState(loss_sums=[float(loss_sum)], weight_sums=[float(weight_sum)])
        for index, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
            if len(gold_tags) != len(predicted_tags):
                raise ValueError(
                    f"sentence {index}: {len(gold_tags)} gold tags but {len(predicted_tags)} predicted ones"
                )
            batch_state.tokens.update(gold_tags, predicted_tags)
            batch_state.lenient.update(lenient_spans(gold_tags), lenient_spans(predicted_tags))
            counts = batch_state.strict.update(strict_spans(gold_tags), strict_spans(predicted_tags))
            batch_state.sentences[counts] += 1
        self.merge(batch_state)

    def merge(self, other: "EntityState") -> None:
        """Adds another state to this one."""
        self.tokens.merge(other.tokens)
        self.strict.merge(other.strict)
        self.lenient.merge(other.lenient)
        self.sentences.update(other.sentences)
        self.loss_sums += other.loss_sums
        self.weight_sums += other.weight_sums

    def compute(self) -> dict[str, float]:
        """Returns all scores by flat name.

        The names are `loss` (if any weight was added), `token_*` (see `TokenState.compute`), `entity_*` (strict) and
        `lenient_*` (as in conlleval); for the last two see `SpanCounts.compute`.
        """
        metrics = {}
        # fsum is exactly rounded, so the order of merging does not matter.
        if weight := math.fsum(self.weight_sums):
            metrics["loss"] = math.fsum(self.loss_sums) / weight
        return (
            metrics | self.tokens.compute() | self.strict.compute("entity") | self.lenient.compute("lenient")
        )

    def intervals(self, *, samples: int = 10_000, seed: int = 0) -> dict[str, Any]:
        """Returns 95% bootstrap intervals of `entity_precision`, `entity_recall` and `entity_f1` (micro, strict).

        See `bootstrap.percentile_intervals` for the other keys.
        """
        return bootstrap.percentile_intervals(self.sentences, prefix="entity", samples=samples, seed=seed)
