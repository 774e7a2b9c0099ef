"""Scores of answers against SQuAD's official script, its rules written out here, and the threshold of no answer."""

import collections
import re
import string

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxft.metrics.answers import TUNED, AnswerState, best_threshold, score_answer
from jaxft.tasks.question_answering import report


def official_normal_form(text):
    lowered = text.lower()
    unpunctuated = "".join(c for c in lowered if c not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", unpunctuated).split())


def official_f1(gold, answer):
    gold_words = official_normal_form(gold).split() if gold else []
    answer_words = official_normal_form(answer).split() if answer else []
    shared = sum((collections.Counter(gold_words) & collections.Counter(answer_words)).values())
    if not gold_words or not answer_words:
        return int(gold_words == answer_words)
    if shared == 0:
        return 0
    precision, recall = shared / len(answer_words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def official_scores(golds, answer):
    golds = [gold for gold in golds if official_normal_form(gold)] or [""]
    exact = max(int(official_normal_form(gold) == official_normal_form(answer)) for gold in golds)
    return exact, max(official_f1(gold, answer) for gold in golds)


def official_metrics(golds, answers, odds, threshold):
    """Returns `exact` and `f1` of `evaluate-v2.0.py`, and those of its HasAns and NoAns questions, in [0, 1]."""
    raw = [official_scores(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    final = [
        (float(not gold), float(not gold)) if value > threshold else scores
        for gold, scores, value in zip(golds, raw, odds, strict=True)
    ]
    groups = {
        "": range(len(golds)),
        "has_answer_": [i for i, gold in enumerate(golds) if gold],
        "no_answer_": [i for i, gold in enumerate(golds) if not gold],
    }
    return {
        f"{prefix}{name}": sum(final[i][column] for i in members) / len(members)
        for prefix, members in groups.items()
        if members and (prefix == "" or groups["no_answer_"])
        for column, name in enumerate(("exact_match", "f1"))
    }


def official_best(golds, answers, odds):
    """Returns the best F1 of its `find_best_thresh`, in [0, 1]."""
    raw = [official_scores(gold, answer)[1] for gold, answer in zip(golds, answers, strict=True)]
    now = best = sum(not gold for gold in golds)
    for index in sorted(range(len(golds)), key=lambda i: odds[i]):
        now += raw[index] if golds[index] else (-1 if answers[index] else 0)
        best = max(best, now)
    return best / len(golds)


@pytest.mark.parametrize(
    ("gold", "answer", "exact", "f1"),
    [
        (["The Eiffel Tower"], "eiffel  tower.", 1, 1),
        (["Eiffel Tower in Paris"], "the tower", 0, 0.4),
        (["St. John's"], "st johns", 1, 1),
        (["an-the"], "anthe", 1, 1),
        (["a b a"], "b b", 0, 2 / 3),  # articles go, words are counted
        (["1,999"], "1999", 1, 1),
        (["x y", "z"], "z", 1, 1),
        ([], "", 1, 1),
        ([], "anything", 0, 0),
        ([], "the", 1, 1),  # it normalizes to nothing
        (["the"], "", 1, 1),
        (["x"], "", 0, 0),
        (["Straße"], "STRASSE", 0, 0),
        (["\u00a0x\u2003y"], "x y", 1, 1),
        (["“x”"], "x", 0, 0),  # punctuation is ASCII's
    ],
)
def test_scores_worked_out_by_hand(gold, answer, exact, f1):
    assert score_answer(answer, gold) == (exact, pytest.approx(f1))
    assert official_scores(gold, answer) == (exact, pytest.approx(f1))


TEXTS = st.lists(
    st.sampled_from(["the", "A", "an", "x", "Y", "x.", "-", "y,", "'s", "é", "É", "the-x", " ", "\n", "_"]),
    max_size=6,
).map(" ".join) | st.text(max_size=8)


@settings(max_examples=150)
@given(st.lists(TEXTS.filter(str.strip), max_size=3), TEXTS)
def test_scores_equal_the_official_ones(gold, answer):
    assert score_answer(answer, gold) == pytest.approx(official_scores(gold, answer), abs=1e-12)


CASES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["x", "x y", "the y z", "w"]), max_size=2),
        st.sampled_from(["x", "y", "x y z", "w w"]),
        st.floats(-5, 5),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda case: case[2],
)


@settings(max_examples=150)
@given(CASES, st.floats(-6, 6))
@example([([], "x", 5.0), (["x"], "x", 4.999999999999999)], 0.0)  # odds that are neighbouring floats
def test_metrics_and_thresholds_are_the_official_ones(cases, threshold):
    golds, answers, odds = map(list, zip(*cases, strict=True))
    state = AnswerState(threshold)
    state.update(golds, answers, odds)
    values = state.compute()
    for name, value in official_metrics(golds, answers, odds, threshold).items():
        assert values[name] == pytest.approx(value), name
    assert values["examples"] == len(cases)
    halves = AnswerState(threshold), AnswerState(threshold)
    halves[0].update(golds[:3], answers[:3], odds[:3])
    halves[1].update(golds[3:], answers[3:], odds[3:])
    halves[0].merge(halves[1])
    assert halves[0].compute() == values

    tuned = AnswerState(TUNED)
    tuned.update(golds, answers, odds)
    if all(golds):
        assert tuned.choose_threshold() is None
    else:
        assert tuned.compute()["f1"] == pytest.approx(official_best(golds, answers, odds))
        assert official_metrics(golds, answers, odds, tuned.choose_threshold())["f1"] == pytest.approx(
            official_best(golds, answers, odds)
        )


def test_thresholds_at_both_ends():
    assert best_threshold([1.0, 0.5], [True, True], [0.0, 1.0]) is None
    assert best_threshold([0.0, 0.0], [False, False], [0.0, 1.0]) == -1  # none is to be answered
    assert best_threshold([1.0, 0.0], [True, False], [0.0, 1.0]) == 0.5
    assert best_threshold([1.0, 0.0], [True, False], [1.0, 1.0]) in (0.0, 2.0)  # not between equals
    assert np.isfinite(best_threshold([0.0, 0.0], [True, False], [np.inf, 0.0]))


def test_states_intervals_and_loss():
    state = AnswerState()
    state.update([["x"]] * 30 + [["y z"]] * 10, ["x"] * 30 + ["y"] * 10, [0.0] * 40, 6.0, 4.0)
    values = state.compute()
    assert values == {
        "loss": 1.5,
        "exact_match": 0.75,
        "f1": pytest.approx(0.75 + 0.25 * 2 / 3),
        "examples": 40,
    }
    intervals = state.intervals(samples=500)
    for name in ("exact_match", "f1"):
        low, high = intervals[name]
        assert low < values[name] < high and 0 <= low and high <= 1
    assert intervals["exact_match"] == pytest.approx([0.6, 0.875], abs=0.06)  # binomial
    assert intervals == state.intervals(samples=500)
    with pytest.raises(ValueError, match="other thresholds"):
        state.merge(AnswerState(1.0))


def test_errors_are_told_by_kind():
    answered = [("x", ["x"]), ("x", ["x y"]), ("z", ["x"]), ("", ["x"]), ("z", [])]
    state = AnswerState()
    state.update([gold for _, gold in answered], [text for text, _ in answered], [0.0] * 5)
    records = [
        {"id": str(i), "question": "q?", "answers": gold, "predicted_answer": text, "score": i / 10}
        for i, (text, gold) in enumerate(answered)
    ]
    wrong = report.list_wrong_answers(records, state.final_scores())
    assert [row["kind"] for row in wrong] == ["spurious", "missed", "wrong", "boundary"]
    assert all(tuple(row) == report.COLUMNS for row in wrong)
    result = report.evaluation_record(state, data="d", method="m", wrong=wrong, intervals=None)
    assert result["errors"] == {"boundary": 1, "wrong": 1, "missed": 1, "spurious": 1}
    assert result["null_threshold"] is None and result["metrics"]["no_answer_examples"] == 1
