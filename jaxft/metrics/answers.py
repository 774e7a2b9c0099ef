"""Exact match and F1 of answers, as SQuAD's official script has them, and the threshold of no answer.

Source: the official evaluation script of SQuAD 2.0 (Rajpurkar et al. 2018, evaluate-v2.0.py), which on questions that
all have answers gives the numbers of 1.1's but where an answer is nothing but articles and punctuation.
"""

import dataclasses
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLOCK = 1000  # resamples drawn at a time: bounds memory
TUNED = "tuned"  # a threshold that is chosen on the questions that are measured


class Scores(NamedTuple):
    """Of one answer, in [0, 1]."""

    exact_match: float
    f1: float


def normalized(text: str) -> list[str]:
    """The words that are compared: in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def score(answer: str, gold: Sequence[str]) -> Scores:
    """The best score against any of the gold answers; "" is the right answer where there are none."""
    found = normalized(answer)
    wanted = [words for text in gold if (words := normalized(text))] or [[]]
    return Scores(float(found in wanted), max(_f1(found, words) for words in wanted))


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    same = sum((Counter(found) & Counter(wanted)).values())
    return 2 * same / (len(found) + len(wanted))


@dataclasses.dataclass(slots=True)
class AnswerState:
    """Scores of questions, mergeable: merging states gives the numbers of one state over all.

    A question is given its answer where `null_odds`, how much likelier no answer is than it, is at most the
    threshold. threshold: a number; None to answer all; `TUNED` for the one with the best F1 on the questions
    themselves.
    """

    threshold: float | None | str = None
    scores: list[Scores] = dataclasses.field(default_factory=list)  # of the answers, were they given
    has_answer: list[bool] = dataclasses.field(default_factory=list)
    null_odds: list[float] = dataclasses.field(default_factory=list)
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[Sequence[str]],
        answers: Sequence[str],
        null_odds: Sequence[float],
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
    ) -> None:
        """Adds questions with the texts that answer them, and the loss of a batch as sum and weight."""
        if not len(gold) == len(answers) == len(null_odds):
            raise ValueError(f"{len(gold)} questions, {len(answers)} answers, {len(null_odds)} odds")
        self.scores += map(score, answers, gold)
        self.has_answer += map(bool, gold)
        self.null_odds += map(float, null_odds)
        self.loss_sums.append(float(loss_sum))
        self.weight_sums.append(float(weight_sum))

    def merge(self, other: "AnswerState") -> None:
        """Adds another state, of the same threshold, to this one."""
        if self.threshold != other.threshold:
            raise ValueError("states of other thresholds cannot be merged")
        for name in ("scores", "has_answer", "null_odds", "loss_sums", "weight_sums"):
            getattr(self, name).extend(getattr(other, name))

    def tuned(self) -> float | None:
        """The threshold: the given one, or where it is `TUNED` the best one here, None if all should be answered."""
        if self.threshold != TUNED:
            return self.threshold
        return best_threshold([s.f1 for s in self.scores], self.has_answer, self.null_odds)

    def final(self) -> list[Scores]:
        """The scores of what is said of each question."""
        threshold = self.tuned()
        if threshold is None:
            return self.scores
        return [
            score if odds <= threshold else Scores(float(not has), float(not has))
            for score, has, odds in zip(self.scores, self.has_answer, self.null_odds, strict=True)
        ]

    def compute(self) -> dict[str, float]:
        """`exact_match` and `f1` in [0, 1], and `examples`; where some questions have no answer these also for those
        that have one and those that have none (`has_answer_f1`, `no_answer_examples`, ...). `loss`, if any weight
        was given."""
        values: dict[str, float] = {}
        if weight := math.fsum(self.weight_sums):
            values["loss"] = math.fsum(self.loss_sums) / weight
        final, has = np.array(self.final(), np.float64).reshape(-1, 2), np.array(self.has_answer, bool)
        parts = {"": np.ones(len(has), bool)}
        if not has.all():
            parts |= {"has_answer_": has, "no_answer_": ~has}
        for prefix, chosen in parts.items():
            if chosen.any():
                means = final[chosen].mean(axis=0)
                values |= {f"{prefix}{n}": float(v) for n, v in zip(Scores._fields, means, strict=True)}
            values[f"{prefix}examples"] = float(chosen.sum())
        return values

    def intervals(self, *, samples: int, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Percentile bootstrap intervals of `exact_match` and `f1`, by drawing questions with replacement."""
        final = np.array(self.final(), np.float64).reshape(-1, 2)
        generator = np.random.Generator(np.random.PCG64(seed))
        distinct, counts = np.unique(final, axis=0, return_counts=True)
        drawn = [
            generator.multinomial(len(final), counts / len(final), min(_BLOCK, samples - start)) @ distinct
            for start in range(0, samples, _BLOCK)
        ]
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        bounds = np.quantile(np.concatenate(drawn) / len(final), tails, axis=0).T.tolist()
        about = {"method": "percentile bootstrap over questions", "confidence": confidence}
        return about | {"samples": samples, "seed": seed} | dict(zip(Scores._fields, bounds, strict=True))


def best_threshold(
    f1: Sequence[float], has_answer: Sequence[bool], null_odds: Sequence[float]
) -> float | None:
    """The threshold of `null_odds` with the best F1, as the official script finds it; None where all have answers.

    f1: of each question's answer, were it given. Midway between two odds, so that rounding decides nothing, and
    one beyond them where all or none should be answered.
    """
    has = np.asarray(has_answer, bool)
    if has.all():
        return None
    order = np.argsort(null_odds, kind="stable")
    odds = np.clip(
        np.asarray(null_odds, np.float64)[order], -1e9, 1e9
    )  # infinite where there was no answer to give
    gains = np.where(has, np.asarray(f1, np.float64), np.asarray(f1, np.float64) - 1)[order]  # of answering
    total = np.concatenate(([0.0], np.cumsum(gains)))  # of answering the first n
    total[1:-1][odds[1:] == odds[:-1]] = -math.inf  # no threshold lies between equal odds
    best = int(np.argmax(total))
    below = odds[best - 1] if best else odds[0] - 2
    above = odds[best] if best < len(odds) else odds[-1] + 2
    return float((below + above) / 2)
