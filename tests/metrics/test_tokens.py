"""Word-level scores equal scikit-learn's, and merged states equal one state over all sentences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from jaxft.metrics.tokens import LabelState
from jaxft.tasks.token_classification.report import evaluation_record

WORDS = st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCD")), min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=6)


@given(SENTENCES, st.integers(0, 6))
def test_scores_are_scikit_learns_however_they_are_merged(sentences, cut):
    state, other = LabelState(), LabelState()
    for target, shard in ((state, sentences[:cut]), (other, sentences[cut:])):
        gold, predicted = ([[pair[side] for pair in s] for s in shard] for side in (0, 1))
        target.update(gold, predicted, loss_sum=float(len(shard)), weight_sum=1.0)
    state.merge(other)
    gold, predicted = zip(*(pair for s in sentences for pair in s), strict=True)
    values = state.compute()
    assert values["token_accuracy"] == sklearn.accuracy_score(gold, predicted)
    assert values["loss"] == len(sentences) / 2
    for average in ("macro", "weighted"):
        scores = sklearn.precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)
        ours = [values[f"token_{name}_{average}"] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(ours, scores[:3], atol=1e-12)
    intervals = state.intervals(samples=20)
    low, high = intervals["token_accuracy"]
    assert 0 <= low <= high <= 1 and intervals["sentences"] == len(sentences)
    assert not any("f1" in name for name in intervals)
    assert evaluation_record(state, data="dev")["sentences"] == len(sentences)
