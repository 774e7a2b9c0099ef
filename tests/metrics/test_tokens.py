"""Scores of labels by themselves equal scikit-learn's, and states merge to those of one state over all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from jaxft.metrics.tokens import LabelState
from jaxft.tasks.token_classification.entity_report import evaluation_record

WORDS = st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCD")), min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=6)


@given(SENTENCES, st.integers(0, 6))
def test_scores_are_scikit_learns_however_they_are_merged(sentences, cut):
    state, other = LabelState(), LabelState()
    for target, part in ((state, sentences[:cut]), (other, sentences[cut:])):
        gold, found = ([[pair[side] for pair in s] for s in part] for side in (0, 1))
        target.update(gold, found, loss_sum=float(len(part)), weight_sum=1.0)
    state.merge(other)
    gold, found = zip(*(pair for s in sentences for pair in s), strict=True)
    values = state.compute()
    assert values["token_accuracy"] == sklearn.accuracy_score(gold, found)
    assert values["loss"] == len(sentences) / 2
    for average in ("macro", "weighted"):
        scores = sklearn.precision_recall_fscore_support(gold, found, average=average, zero_division=0)
        ours = [values[f"token_{name}_{average}"] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(ours, scores[:3], atol=1e-12)
    intervals = state.intervals(samples=20)
    low, high = intervals["token_accuracy"]
    assert 0 <= low <= high <= 1 and intervals["sentences"] == len(sentences)
    assert not any("f1" in name for name in intervals)
    assert evaluation_record(state, data="dev")["sentences"] == len(sentences)
