"""ROUGE equals the values that the package rouge-score gave, and its subsequences are the longest.

`rouge_score_0.1.2.jsonl` holds pairs of texts drawn by hypothesis in November 2026, and what
`RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)` of rouge-score 0.1.2 gave as their F1.
"""

import json
import pathlib
import string

from hypothesis import given
from hypothesis import strategies as st

from jaxft.metrics.rouge import ROUGE, measure_rouge

RECORDED = [
    json.loads(line)
    for line in pathlib.Path(__file__).with_name("rouge_score_0.1.2.jsonl").read_text("utf-8").splitlines()
]


def test_scores_equal_those_recorded_to_the_last_bit():
    assert len(RECORDED) > 300 and len({tuple(pair["rouge"]) for pair in RECORDED}) > 200
    for pair in RECORDED:
        scores = measure_rouge(pair["prediction"], [pair["reference"]])
        assert scores == dict(zip(ROUGE, pair["rouge"], strict=True)), pair


def test_each_score_is_that_of_the_reference_with_which_it_is_highest():
    # One reference has the words, the other their order.
    assert measure_rouge("a b c d", ["d c b a", "a b x y z q"]) == {
        "rouge1": 1.0,
        "rouge2": 2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5),
        "rougeL": 2 * (2 / 4) * (2 / 6) / (2 / 4 + 2 / 6),
    }


words = st.lists(st.sampled_from(string.ascii_lowercase[:4]), max_size=80)


@given(words, words)
def test_the_subsequence_is_the_longest(prediction, reference):
    lengths = [0] * (len(reference) + 1)  # of the longest common subsequences with the first j words
    for word in prediction:
        above = list(lengths)
        for j, other in enumerate(reference):
            lengths[j + 1] = above[j] + 1 if word == other else max(above[j + 1], lengths[j])
    score = measure_rouge(" ".join(prediction), [" ".join(reference)])["rougeL"]
    total = len(prediction) + len(reference)
    assert abs(score - (2 * lengths[-1] / total if total else 0.0)) < 1e-12
