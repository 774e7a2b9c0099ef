"""Scores of answers against SQuAD's official script, its rules written out here, and the threshold of no answer."""

import collections
import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.metrics.answers import TUNED, AnswerState, best_threshold, score
from jaxft.tasks.question_answering import report


def official_normal_form(text):
    lowered = text.lower()
    unpunctuated = "".join(c for c in lowered if c not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", unpunctuated).split())


def official_f1(gold, said):
    gold_words = official_normal_form(gold).split() if gold else []
    said_words = official_normal_form(said).split() if said else []
    shared = sum((collections.Counter(gold_words) & collections.Counter(said_words)).values())
    if not gold_words or not said_words:
        return int(gold_words == said_words)
    if shared == 0:
        return 0
    precision, recall = shared / len(said_words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def official_scores(golds, said):
    golds = [gold for gold in golds if official_normal_form(gold)] or [""]
    exact = max(int(official_normal_form(gold) == official_normal_form(said)) for gold in golds)
    return exact, max(official_f1(gold, said) for gold in golds)


def official_metrics(golds, answers, odds, threshold):
    """`evaluate-v2.0.py`'s `exact`, `f1` and their HasAns and NoAns parts, in [0, 1]."""
    raw = [official_scores(gold, said) for gold, said in zip(golds, answers, strict=True)]
    final = [
        (float(not gold), float(not gold)) if value > threshold else found
        for gold, found, value in zip(golds, raw, odds, strict=True)
    ]
    parts = {
        "": range(len(golds)),
        "has_answer_": [i for i, gold in enumerate(golds) if gold],
        "no_answer_": [i for i, gold in enumerate(golds) if not gold],
    }
    return {
        f"{prefix}{name}": sum(final[i][column] for i in chosen) / len(chosen)
        for prefix, chosen in parts.items()
        if chosen and (prefix == "" or parts["no_answer_"])
        for column, name in enumerate(("exact_match", "f1"))
    }


def official_best(golds, answers, odds):
    """The best F1 of its `find_best_thresh`, in [0, 1]."""
    raw = [official_scores(gold, said)[1] for gold, said in zip(golds, answers, strict=True)]
    now = best = sum(not gold for gold in golds)
    for index in sorted(range(len(golds)), key=lambda i: odds[i]):
        now += raw[index] if golds[index] else (-1 if answers[index] else 0)
        best = max(best, now)
    return best / len(golds)


@pytest.mark.parametrize(
    ("gold", "said", "exact", "f1"),
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
def test_by_hand(gold, said, exact, f1):
    assert score(said, gold) == (exact, pytest.approx(f1))
    assert official_scores(gold, said) == (exact, pytest.approx(f1))


TEXTS = st.lists(
    st.sampled_from(["the", "A", "an", "x", "Y", "x.", "-", "y,", "'s", "é", "É", "the-x", " ", "\n", "_"]),
    max_size=6,
).map(" ".join) | st.text(max_size=8)


@settings(max_examples=150)
@given(st.lists(TEXTS.filter(str.strip), max_size=3), TEXTS)
def test_at_random(gold, said):
    assert score(said, gold) == pytest.approx(official_scores(gold, said), abs=1e-12)


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
def test_metrics_and_thresholds_are_the_official_ones(cases, threshold):
    golds, answers, odds = map(list, zip(*cases, strict=True))
    state = AnswerState(threshold)
    state.update(golds, answers, odds)
    found = state.compute()
    for name, value in official_metrics(golds, answers, odds, threshold).items():
        assert found[name] == pytest.approx(value), name
    assert found["examples"] == len(cases)
    halves = AnswerState(threshold), AnswerState(threshold)
    halves[0].update(golds[:3], answers[:3], odds[:3])
    halves[1].update(golds[3:], answers[3:], odds[3:])
    halves[0].merge(halves[1])
    assert halves[0].compute() == found

    tuned = AnswerState(TUNED)
    tuned.update(golds, answers, odds)
    if all(golds):
        assert tuned.tuned() is None
    else:
        assert tuned.compute()["f1"] == pytest.approx(official_best(golds, answers, odds))
        assert official_metrics(golds, answers, odds, tuned.tuned())["f1"] == pytest.approx(
            official_best(golds, answers, odds)
        )


def test_thresholds_at_their_ends():
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
    found = state.intervals(samples=500)
    for name in ("exact_match", "f1"):
        low, high = found[name]
        assert low < values[name] < high and 0 <= low and high <= 1
    assert found["exact_match"] == pytest.approx([0.6, 0.875], abs=0.06)  # binomial
    assert found == state.intervals(samples=500)
    with pytest.raises(ValueError, match="other thresholds"):
        state.merge(AnswerState(1.0))


def test_errors_are_told_by_kind():
    said = [("x", ["x"]), ("x", ["x y"]), ("z", ["x"]), ("", ["x"]), ("z", [])]
    state = AnswerState()
    state.update([gold for _, gold in said], [text for text, _ in said], [0.0] * 5)
    records = [
        {"id": str(i), "question": "q?", "answers": gold, "predicted_answer": text, "score": i / 10}
        for i, (text, gold) in enumerate(said)
    ]
    wrong = report.wrong_answers(records, state.final())
    assert [row["kind"] for row in wrong] == ["spurious", "missed", "wrong", "boundary"]
    assert all(tuple(row) == report.COLUMNS for row in wrong)
    result = report.evaluation_record(state, data="d", method="m", wrong=wrong, intervals=None)
    assert result["errors"] == {"boundary": 1, "wrong": 1, "missed": 1, "spurious": 1}
    assert result["null_threshold"] is None and result["metrics"]["no_answer_examples"] == 1
