"""Scores answers by exact match and F1 like SQuAD's official script, and chooses the threshold of no answer.

Source: the official evaluation script of SQuAD 2.0 (Rajpurkar et al. 2018, evaluate-v2.0.py). If all questions have
answers, it gives the same numbers as the script of SQuAD 1.1, except for answers of only articles and punctuation.
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
_BLOCK = 1000  # resamples drawn at a time; bounds memory
TUNED = "tuned"  # means that the threshold is chosen on the measured questions


class AnswerScores(NamedTuple):
    """The scores of one answer, in [0, 1]."""

    exact_match: float
    f1: float


def normalize_answer(text: str) -> list[str]:
    """Returns the words for comparison, in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def score_answer(answer: str, gold: Sequence[str]) -> AnswerScores:
    """Returns the best score against any of the gold answers. Without gold answers, "" is correct."""
    answer_words = normalize_answer(answer)
    gold_words = [words for text in gold if (words := normalize_answer(text))] or [[]]
    return AnswerScores(
        float(answer_words in gold_words), max(_word_f1(answer_words, words) for words in gold_words)
    )


def _word_f1(answer_words: list[str], gold_words: list[str]) -> float:
    if not answer_words or not gold_words:
        return float(answer_words == gold_words)
    shared_count = sum((Counter(answer_words) & Counter(gold_words)).values())
    return 2 * shared_count / (len(answer_words) + len(gold_words))


@dataclasses.dataclass(slots=True)
class AnswerState:
    """The scores of questions. Merged states give the same numbers as a single state for all questions.

    The `null_odds` of a question measure how much likelier "no answer" is than its answer. The answer counts if they
    are at most the threshold; otherwise the question counts as not answered.

    Args:
      threshold: a number; None to answer all questions; `TUNED` for the threshold with the best F1 on these questions.
    """

    threshold: float | None | str = None
    scores: list[AnswerScores] = dataclasses.field(
        default_factory=list
    )  # scores as if every question were answered
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
        """Adds questions with their answers, and the loss of a batch as sum and weight.

        Args:
          gold: the correct answers of each question; empty if it has no answer.
          answers: the model's answer to each question.
          null_odds: the null odds of each question.
          loss_sum: the sum of the losses.
          weight_sum: the sum of the loss weights.
        """
        if not len(gold) == len(answers) == len(null_odds):
            raise ValueError(f"{len(gold)} questions, {len(answers)} answers, {len(null_odds)} odds")
        self.scores += map(score_answer, answers, gold)
        self.has_answer += map(bool, gold)
        self.null_odds += map(float, null_odds)
        self.loss_sums.append(float(loss_sum))
        self.weight_sums.append(float(weight_sum))

    def merge(self, other: "AnswerState") -> None:
        """Adds another state with the same threshold to this one."""
        if self.threshold != other.threshold:
            raise ValueError("states of other thresholds cannot be merged")
        for name in ("scores", "has_answer", "null_odds", "loss_sums", "weight_sums"):
            getattr(self, name).extend(getattr(other, name))

    def choose_threshold(self) -> float | None:
        """Returns the threshold, or the best for these questions if it is `TUNED`. None means that all are answered."""
        if not isinstance(self.threshold, str):  # it is not `TUNED`
            return self.threshold
        return best_threshold([s.f1 for s in self.scores], self.has_answer, self.null_odds)

    def final_scores(self) -> list[AnswerScores]:
        """Returns the score of each question's answer, or of "no answer" if its null odds exceed the threshold."""
        threshold = self.choose_threshold()
        if threshold is None:
            return self.scores
        return [
            scores if odds <= threshold else AnswerScores(float(not has_answer), float(not has_answer))
            for scores, has_answer, odds in zip(self.scores, self.has_answer, self.null_odds, strict=True)
        ]

    def _score_matrix(self) -> np.ndarray:
        """Returns `final_scores` as float64 `[N, 2]`."""
        return np.array(self.final_scores(), np.float64).reshape(-1, 2)

    def compute(self) -> dict[str, float]:
        """Returns `exact_match` and `f1` in [0, 1], and `examples`.

        If some questions have no answer, the same numbers follow for questions with an answer (`has_answer_f1`, ...)
        and for questions without (`no_answer_examples`, ...). `loss` is included if any weight was added.
        """
        values: dict[str, float] = {}
        if weight := math.fsum(self.weight_sums):
            values["loss"] = math.fsum(self.loss_sums) / weight
        scores = self._score_matrix()
        has_answer = np.array(self.has_answer, bool)
        groups = {
            "": np.ones(len(has_answer), bool)
        }  # prefix of the metrics -> the questions that they cover
        if not has_answer.all():
            groups |= {"has_answer_": has_answer, "no_answer_": ~has_answer}
        for prefix, is_member in groups.items():
            if is_member.any():
                means = scores[is_member].mean(axis=0)
                values |= {f"{prefix}{n}": float(v) for n, v in zip(AnswerScores._fields, means, strict=True)}
            values[f"{prefix}examples"] = float(is_member.sum())
        return values

    def intervals(self, *, samples: int, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Returns percentile bootstrap intervals of `exact_match` and `f1`, drawing questions with replacement."""
        scores = self._score_matrix()
        generator = np.random.Generator(np.random.PCG64(seed))
        distinct, counts = np.unique(scores, axis=0, return_counts=True)
        sums = [
            generator.multinomial(len(scores), counts / len(scores), min(_BLOCK, samples - start)) @ distinct
            for start in range(0, samples, _BLOCK)
        ]
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        bounds = np.quantile(np.concatenate(sums) / len(scores), tails, axis=0).T.tolist()
        method = {"method": "percentile bootstrap over questions", "confidence": confidence}
        return (
            method | {"samples": samples, "seed": seed} | dict(zip(AnswerScores._fields, bounds, strict=True))
        )


def best_threshold(
    f1: Sequence[float], has_answer: Sequence[bool], null_odds: Sequence[float]
) -> float | None:
    """Returns the threshold of `null_odds` with the best F1, like the official script.

    The threshold lies midway between two odds, so that rounding errors do not matter. If all or none of the questions
    should be answered, it lies 1 beyond all odds.

    Args:
      f1: the F1 of each question's answer, as if every question were answered.
      has_answer: True for each question that has an answer.
      null_odds: the null odds of each question.

    Returns:
      The threshold, or None if all questions have answers.
    """
    is_answerable = np.asarray(has_answer, bool)
    if is_answerable.all():
        return None
    order = np.argsort(null_odds, kind="stable")
    # The odds are infinite if the model had no answer.
    odds = np.clip(np.asarray(null_odds, np.float64)[order], -1e9, 1e9)
    answer_f1 = np.asarray(f1, np.float64)
    gains = np.where(is_answerable, answer_f1, answer_f1 - 1)[order]  # the gain from answering each question
    total = np.concatenate(([0.0], np.cumsum(gains)))  # the gain from answering the first n questions
    total[1:-1][odds[1:] == odds[:-1]] = -math.inf  # no threshold lies between equal odds
    best = int(np.argmax(total))
    below = odds[best - 1] if best else odds[0] - 2
    above = odds[best] if best < len(odds) else odds[-1] + 2
    middle = (below + above) / 2
    return float(middle if middle < above else below)  # between neighbouring floats there is no middle
