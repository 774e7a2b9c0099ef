"""Measures of generated text equal those of sacrebleu and counts by hand, also when states are merged."""

import pytest
import sacrebleu

from jaxft.metrics.generated_text import GeneratedTextState

PAIRS = [
    ("the cat sat on the mat", ["the cat sat on the mat"]),
    (
        "Council votes to close the old library.",
        ["Council to close library", "Old library closed by council vote"],
    ),
    ("no no no no no no", ["Rain expected on Sunday"]),
    ("", ["Rates rise again"]),
]


def state_of(pairs):
    state = GeneratedTextState()
    for prediction, references in pairs:
        state.update(prediction, references)
    return state


def test_measures_worked_out_by_hand():
    values = state_of([("a b a b", ["a  b\ta b"]), ("a c", ["a b", "a c d e f"]), ("", ["x y z"])]).compute()
    # Words 4 + 2 over nearest references 4 + 2 + 3; unigrams a b a b a c; bigrams ab ba ab ac.
    expected = {
        "exact_match": 1 / 3,
        "distinct_1": 3 / 6,
        "distinct_2": 3 / 4,
        "repetition_2": (1 / 3 + 0 + 0) / 3,
        "repetition_4": 0.0,
        "length_ratio": 6 / 9,
        "texts": 3.0,
        # F1 of unigrams: 1, the better of 1/2 and 2 * (1 * 2/5) / (1 + 2/5) = 4/7, and 0.
        "rouge1": (1 + 4 / 7) / 3,
        "rouge2": (1 + 2 * (1 * 1 / 4) / (1 + 1 / 4)) / 3,
        "rougeL": (1 + 4 / 7) / 3,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    repeated = state_of([("no no no no no no", ["yes"])]).compute()
    assert repeated["repetition_4"] == pytest.approx(2 / 3) and repeated["length_ratio"] == 6


def test_bleu_and_chrf_equal_those_of_sacrebleu():
    values = state_of(PAIRS).compute()
    predictions = [p for p, _ in PAIRS]
    streams = [[r[0] for _, r in PAIRS], [r[1] if len(r) > 1 else None for _, r in PAIRS]]
    assert values["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(predictions, streams, force=True).score / 100
    )
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, streams).score / 100)
    assert 0 < values["bleu"] < values["chrf"] < 1
    perfect = state_of([(r[0], r) for _, r in PAIRS]).compute()
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match", "length_ratio"):
        assert perfect[name] == pytest.approx(1.0), name


def test_merged_states_equal_one_state_and_no_text_scores_0():
    first = state_of(PAIRS[:1])
    first.merge(state_of(PAIRS[1:]))
    assert first.compute() == state_of(PAIRS).compute()
    assert set(GeneratedTextState().compute().values()) == {0.0}
    with pytest.raises(ValueError, match="no reference"):
        first.update("text", [])
