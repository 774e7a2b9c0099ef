"""Finds the best answers in the logits of a question's windows.

As `postprocess_qa_predictions` of transformers' examples (pytorch/question-answering/utils_qa.py): of each window the
`n_best` likeliest first and the `n_best` likeliest last tokens are combined, their logits added, and all windows'
answers compared; no answer scores the sum of both logits at CLS, the least over the windows, since each must find
nothing. Three things differ: only tokens of the context are among the likeliest, so that a question always has an
answer where its context has tokens; the same characters from two windows count once, with their higher score; and
ties go to the earlier.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.sources.questions import Question


class Candidate(NamedTuple):
    """Characters `start` up to `end` of the context, and the sum of both logits."""

    start: int
    end: int
    score: float


class RankedAnswers(NamedTuple):
    """The candidates of a question, best first, and the score of no answer."""

    candidates: list[Candidate]
    null: float

    @property
    def null_odds(self) -> float:
        """How much higher no answer scores than the best one."""
        return self.null - self.candidates[0].score if self.candidates else math.inf


def best_in_window(
    logits: np.ndarray, char_start: np.ndarray, char_end: np.ndarray, *, n_best: int, max_answer: int
) -> RankedAnswers:
    """The best answers of a window.

    Args:
      logits: float [length, 2] of a token's being first and last.
      char_start, char_end: int [length], the context's characters that a token stands for, -1 outside the context.
      max_answer: tokens that an answer has at most.
    """
    logits = logits.astype(np.float64)
    context = np.flatnonzero(char_start >= 0)
    first, last = (context[np.argsort(-logits[context, side], kind="stable")[:n_best]] for side in (0, 1))
    if not _fitting(first, last, max_answer).any():
        first = last = context
    pairs = _fitting(first, last, max_answer)
    scores = np.where(pairs, logits[first, 0][:, None] + logits[last, 1][None], -math.inf)
    order = np.argsort(-scores, axis=None, kind="stable")[: min(n_best, int(pairs.sum()))]
    best = [
        Candidate(int(char_start[first[i]]), int(char_end[last[j]]), float(scores[i, j]))
        for i, j in zip(*np.unravel_index(order, scores.shape), strict=True)
    ]
    return RankedAnswers(best, float(logits[0].sum()))


def _fitting(first: np.ndarray, last: np.ndarray, max_answer: int) -> np.ndarray:
    length = last[None] - first[:, None] + 1
    return (length >= 1) & (length <= max_answer)


def best_in_question(windows: Sequence[RankedAnswers], *, n_best: int) -> RankedAnswers:
    """The best answers of all windows of a question."""
    best: dict[tuple[int, int], Candidate] = {}
    for one in sorted(
        (c for window in windows for c in window.candidates), key=lambda c: (-c.score, c.start)
    ):
        best.setdefault((one.start, one.end), one)
    return RankedAnswers(list(best.values())[:n_best], min(window.null for window in windows))


def answer_record(question: Question, found: RankedAnswers, threshold: float | None) -> dict[str, Any]:
    """What is said of a question: `predicted_answer`, "" for none, `start`, `end` (None for none), `score`, `n_best`.

    A `score` is the softmax over the candidates, and over no answer too where there is a threshold of `null_odds`
    above which none is given.
    """
    listed = [(question.context[c.start : c.end], c.start, c.end, c.score) for c in found.candidates]
    if threshold is not None or not listed:
        listed.append(("", None, None, found.null))
    listed.sort(key=lambda item: -item[3])
    powers = np.exp(np.array([item[3] for item in listed]) - listed[0][3])
    n_best = [
        {"text": text, "start": start, "end": end, "score": round(float(share), 6)}
        for (text, start, end, _), share in zip(listed, powers / powers.sum(), strict=True)
    ]
    none = threshold is not None and found.null_odds > threshold
    said = next((one for one in n_best if (one["start"] is None) == none), n_best[0])
    return {
        "predicted_answer": said["text"],
        "start": said["start"],
        "end": said["end"],
        "score": said["score"],
        "n_best": n_best,
    }
