"""Scores of classified texts equal scikit-learn's on random cases, through any merges."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from jaxft.metrics.classification import ClassificationState, calibration_error
from jaxft.metrics.multi_label import MultiLabelState, best_threshold
from jaxft.metrics.regression import RegressionState

CASES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([2, 3, 6]))


def merged(make, shards):
    """Returns one state, merged from several in a tree."""
    states = []
    for arguments in shards:
        states.append(make())
        states[-1].update(*arguments)
    while len(states) > 1:
        last = states.pop()
        states[0].merge(last)
    return states[0]


def split_indices(rng, count):
    return np.split(np.arange(count), np.sort(rng.integers(0, count + 1, 3)))


@pytest.mark.filterwarnings("ignore:A single label was found")  # by scikit-learn, called from here
@settings(max_examples=15)
@given(CASES, st.booleans())
def test_scores_of_a_single_label_equal_scikit_learns(case, unseen):
    seed, count, classes = case
    rng = np.random.default_rng(seed)
    labels = [f"l{i}" for i in range(classes)]
    gold = rng.integers(0, classes + unseen, count)
    probabilities = rng.dirichlet(np.ones(classes), count)
    names = np.array([*labels, "unseen"])[gold]
    shards = [(names[i].tolist(), probabilities[i], 2.0 * len(i), len(i)) for i in split_indices(rng, count)]
    state = merged(lambda: ClassificationState(labels), shards)
    gold, predicted = np.array(names.tolist()), np.array(labels)[probabilities.argmax(1)]
    values = state.compute()
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    for average in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(metrics, f"{name}_score")(gold, predicted, average=average, zero_division=0)
            assert values[f"{name}_{average}"] == pytest.approx(score), (name, average)
    assert values["mcc"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted))
    report = metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
    for label in set(gold) | set(predicted):
        assert values[f"f1/{label}"] == pytest.approx(report[label]["f1-score"])
        assert values[f"support/{label}"] == report[label]["support"]
    assert values["loss"] == pytest.approx(2)
    is_binary = classes == 2 and set(gold) == {"l0", "l1"}
    assert ("roc_auc" in values) == is_binary == ("average_precision" in values)
    if is_binary:
        assert values["roc_auc"] == pytest.approx(metrics.roc_auc_score(gold == "l1", probabilities[:, 1]))
        score = metrics.average_precision_score(gold == "l1", probabilities[:, 1])
        assert values["average_precision"] == pytest.approx(score)
    matrix = metrics.confusion_matrix(gold, predicted, labels=state.label_names())
    assert (state.confusion_matrix() == matrix).all()
    json.dumps(values)


def test_calibration_by_hand():
    """Ten of 0.95 with 7 right, ten of 0.55 with 6 right; the border belongs to the lower bin."""
    confidence = np.repeat([0.95, 0.55], 10)
    correct = np.array([True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    assert calibration_error(confidence, correct) == pytest.approx((10 * 0.25 + 10 * 0.05) / 20)
    assert calibration_error(np.array([2 / 15, 2 / 15 + 1e-9]), np.array([True, False])) == pytest.approx(
        (13 / 15 + 2 / 15) / 2
    )


def test_intervals_hold_the_score_and_narrow_with_the_data():
    widths = []
    for count in (50, 5000):
        rng = np.random.default_rng(0)
        state = ClassificationState(["a", "b"])
        gold = rng.random(count) < 0.5
        right = rng.random(count) < 0.8
        probabilities = np.where((gold == right)[:, None], [0.1, 0.9], [0.9, 0.1])
        state.update(np.where(gold, "b", "a").tolist(), probabilities)
        intervals, values = state.intervals(samples=500, seed=1), state.compute()
        for name in ("accuracy", "f1_macro"):
            assert intervals[name][0] < values[name] < intervals[name][1]
        assert intervals == state.intervals(samples=500, seed=1)
        widths.append(intervals["accuracy"][1] - intervals["accuracy"][0])
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.25)


@settings(max_examples=20)
@given(CASES, st.booleans(), st.sampled_from(["one", "label", "none", "given"]))
def test_scores_of_several_labels_equal_scikit_learns(case, unseen, mode):
    seed, count, classes = case
    rng = np.random.default_rng(seed)
    labels = [f"l{i}" for i in range(classes)]
    indicator = rng.random((count, classes + unseen)) < rng.random(classes + unseen)
    names = np.array([*labels, "unseen"])
    probabilities = rng.random((count, classes)).round(1)  # so that some are equal
    gold = [set(names[: classes + unseen][row]) for row in indicator]
    thresholds = rng.random(classes).tolist() if mode == "given" else None

    def make():
        return MultiLabelState(labels, thresholds, "one" if mode == "given" else mode)

    shards = [([gold[j] for j in i], probabilities[i], 1.0, 1.0) for i in split_indices(rng, count)]
    state = merged(make, shards)
    values = state.compute()
    if unseen and not indicator[:, -1].any():
        indicator = indicator[:, :-1]
    thresholds_used = np.array([values[f"threshold/{label}"] for label in labels])
    predicted = np.zeros_like(indicator)
    predicted[:, :classes] = probabilities >= thresholds_used
    for average in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(metrics, f"{name}_score")(indicator, predicted, average=average, zero_division=0)
            assert values[f"{name}_{average}"] == pytest.approx(score), (name, average)
    assert values["subset_accuracy"] == pytest.approx((indicator == predicted).all(axis=1).mean())
    assert values["label_accuracy"] == pytest.approx(1 - metrics.hamming_loss(indicator, predicted))
    if mode == "given":
        assert thresholds_used.tolist() == thresholds
    elif mode == "none":
        assert set(thresholds_used) == {0.5}
    else:  # no other threshold of its kind is better
        known = indicator[:, :classes]
        for other in np.arange(-0.05, 1.1, 0.1):
            ours, theirs = (
                metrics.f1_score(known, probabilities >= t, average=None, zero_division=0)
                for t in (thresholds_used, other)
            )
            if mode == "label":
                assert (ours >= theirs - 1e-12).all()
            micro = [
                metrics.f1_score(known, probabilities >= t, average="micro", zero_division=0)
                for t in (thresholds_used, other)
            ]
            assert mode == "label" or micro[0] >= micro[1] - 1e-12
    json.dumps(values)


def test_a_threshold_lies_between_probabilities():
    gold, probabilities = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.2, 0.1])
    assert best_threshold(gold, probabilities) == pytest.approx(0.3)
    assert best_threshold(~(gold | True), probabilities) == 0.5


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_scores_of_numbers_equal_numpys(seed, count):
    rng = np.random.default_rng(seed)
    gold, predicted = rng.normal(size=(2, count)) * 10
    shards = [(gold[i], predicted[i], 3.0, 2.0) for i in split_indices(rng, count)]
    values = merged(RegressionState, shards).compute()
    assert values["mse"] == pytest.approx(np.mean((gold - predicted) ** 2))
    assert values["rmse"] == pytest.approx(values["mse"] ** 0.5)
    assert values["mae"] == pytest.approx(np.abs(gold - predicted).mean())
    assert values["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    assert values["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic)
    assert values["loss"] == pytest.approx(1.5)


def test_what_is_undefined_is_0_and_what_does_not_fit_is_refused():
    state = RegressionState()
    state.update([1.0, 2.0], [3.0, 3.0])
    assert state.compute()["pearson"] == state.compute()["spearman"] == 0
    state, other = ClassificationState(["a", "b"]), ClassificationState(["a", "c"])
    with pytest.raises(ValueError, match="cannot be merged"):
        state.merge(other)
    with pytest.raises(ValueError, match=r"2 examples of 2 labels, but probabilities \(2, 3\)"):
        state.update(["a", "b"], np.ones((2, 3)))
    with pytest.raises(ValueError, match="states of other thresholds cannot be merged"):
        MultiLabelState(["a"], [0.5]).merge(MultiLabelState(["a"], [0.4]))
