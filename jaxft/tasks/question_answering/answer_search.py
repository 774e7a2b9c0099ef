"""Finds the best answers in the logits of a question's windows.

The search follows `postprocess_qa_predictions` of transformers' examples (pytorch/question-answering/utils_qa.py). In
each window it combines the `n_best` likeliest first tokens with the `n_best` likeliest last tokens, and adds their
logits. Then it compares the answers of all windows. The score of no answer is the sum of both logits at CLS, as the
minimum over all windows, because a question without an answer has none in any window. There are three differences:

- Only tokens of the context are candidates, so a question always has an answer if its context has tokens.
- The same characters from two windows count once, with the higher score.
- In a tie the earlier answer wins.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.sources.questions import Question


class Candidate(NamedTuple):
    """A possible answer: characters `start` to `end` (exclusive) of the context, and the sum of both logits."""

    start: int
    end: int
    score: float


class RankedAnswers(NamedTuple):
    """The possible answers to a question, best first, and the score of no answer."""

    candidates: list[Candidate]
    null: float

    @property
    def null_odds(self) -> float:
        """The score of no answer minus the score of the best answer."""
        return self.null - self.candidates[0].score if self.candidates else math.inf


def best_in_window(
    logits: np.ndarray, char_start: np.ndarray, char_end: np.ndarray, *, n_best: int, max_answer: int
) -> RankedAnswers:
    """Returns the best answers in a window.

    Args:
      logits: float [length, 2], the logits of each token as the first and as the last token of the answer.
      char_start, char_end: int [length], the characters of the context for each token, -1 outside the context.
      n_best: the number of first tokens and of last tokens that are combined; also the most answers returned.
      max_answer: the most tokens in an answer.
    """
    logits = logits.astype(np.float64)
    context = np.flatnonzero(char_start >= 0)
    first, last = (context[np.argsort(-logits[context, side], kind="stable")[:n_best]] for side in (0, 1))
    if not _fit(first, last, max_answer).any():
        first = last = context
    is_answer = _fit(first, last, max_answer)
    scores = np.where(is_answer, logits[first, 0][:, None] + logits[last, 1][None], -math.inf)
    order = np.argsort(-scores, axis=None, kind="stable")[: min(n_best, int(is_answer.sum()))]
    best = [
        Candidate(int(char_start[first[i]]), int(char_end[last[j]]), float(scores[i, j]))
        for i, j in zip(*np.unravel_index(order, scores.shape), strict=True)
    ]
    return RankedAnswers(best, float(logits[0].sum()))


def _fit(first: np.ndarray, last: np.ndarray, max_answer: int) -> np.ndarray:
    """Marks the pairs of first and last tokens that span 1 to `max_answer` tokens, bool [first, last]."""
    length = last[None] - first[:, None] + 1
    return (length >= 1) & (length <= max_answer)


def best_in_question(windows: Sequence[RankedAnswers], *, n_best: int) -> RankedAnswers:
    """Returns the best answers to a question from the best answers in each of its windows."""
    candidates = [candidate for window in windows for candidate in window.candidates]
    candidates.sort(key=lambda candidate: (-candidate.score, candidate.start))
    best: dict[tuple[int, int], Candidate] = {}
    for candidate in candidates:
        best.setdefault((candidate.start, candidate.end), candidate)
    return RankedAnswers(list(best.values())[:n_best], min(window.null for window in windows))


def answer_records(
    questions: Sequence[Question], ranked: Sequence[RankedAnswers], threshold: float | None
) -> list[dict[str, Any]]:
    """Returns the `answer_record` of each question."""
    return [
        answer_record(question, answers, threshold)
        for question, answers in zip(questions, ranked, strict=True)
    ]


def answer_record(question: Question, answers: RankedAnswers, threshold: float | None) -> dict[str, Any]:
    """Returns the answer to a question as JSON values, without white space around it.

    The keys are `predicted_answer` ("" for none), `start` and `end` (None for none), `score`, and `n_best`, a list of
    answers. A `score` is the softmax over the answers, which include "no answer" if there is a threshold.

    Args:
      question: the question.
      answers: its possible answers.
      threshold: the `null_odds` above which the record has no answer; None if it always has one.
    """
    choices: list[tuple[str, int | None, int | None, float]] = []
    for start, end, score in answers.candidates:
        text = question.context[start:end]
        start += len(text) - len(text.lstrip())  # the first token may begin with the space before its word
        if text := text.strip():
            choices.append((text, start, start + len(text), score))
    if threshold is not None or not choices:
        choices.append(("", None, None, answers.null))
    choices.sort(key=lambda choice: -choice[3])
    powers = np.exp(np.array([choice[3] for choice in choices]) - choices[0][3])
    n_best = [
        {"text": text, "start": start, "end": end, "score": round(float(share), 6)}
        for (text, start, end, _), share in zip(choices, powers / powers.sum(), strict=True)
    ]
    gives_none = threshold is not None and answers.null_odds > threshold
    answer = next((choice for choice in n_best if (choice["start"] is None) == gives_none), n_best[0])
    return {
        "predicted_answer": answer["text"],
        "start": answer["start"],
        "end": answer["end"],
        "score": answer["score"],
        "n_best": n_best,
    }
