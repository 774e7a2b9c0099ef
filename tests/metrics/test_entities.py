"""The entity state equals seqeval and conlleval, and merges exactly."""

import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from jaxft.metrics.entities import EntityState
from jaxft.metrics.f1 import precision_recall_f1
from tests.metrics.conlleval import conlleval
from tests.metrics.tagged import TAGS, pairs

AVERAGES = {"micro avg": "", "macro avg": "_macro", "weighted avg": "_weighted"}


def computed(gold, predicted) -> dict[str, float]:
    state = EntityState()
    state.update(gold, predicted)
    return state.compute()


def assert_equals_seqeval(metrics, prefix, expected):
    for row, scores in expected.items():
        suffix = AVERAGES.get(row, f"/{row}")
        for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert metrics[f"{prefix}_{name}{suffix}"] == pytest.approx(scores[theirs], abs=1e-12), (
                row,
                name,
            )
        support = metrics[f"{prefix}_support" + (suffix if "/" in suffix else "")]
        assert support == scores["support"], row
    assert len([name for name in metrics if name.startswith(f"{prefix}_f1/")]) == len(expected) - len(
        AVERAGES
    )


@given(pairs())
def test_strict_and_lenient_equal_seqeval(pair):
    gold, predicted = pair
    metrics = computed(gold, predicted)
    options = {"output_dict": True, "zero_division": 0}
    if metrics["entity_support"] + metrics["entity_predicted"]:  # seqeval fails without any entity
        strict = classification_report(gold, predicted, mode="strict", scheme=IOB2, **options)
        assert_equals_seqeval(metrics, "entity", strict)
    if metrics["lenient_support"] + metrics["lenient_predicted"]:
        assert_equals_seqeval(metrics, "lenient", classification_report(gold, predicted, **options))


@given(pairs())
def test_lenient_equals_conlleval(pair):
    correct, guessed, gold, accuracy = conlleval(*pair)
    metrics = computed(*pair)
    assert metrics["token_accuracy"] == pytest.approx(accuracy)
    for kind in guessed | gold:
        expected = precision_recall_f1(correct[kind], guessed[kind], gold[kind])
        assert [metrics[f"lenient_{name}/{kind}"] for name in ("precision", "recall", "f1")] == list(expected)
        assert metrics[f"lenient_support/{kind}"] == gold[kind]
        assert metrics[f"lenient_predicted/{kind}"] == guessed[kind]
    expected = precision_recall_f1(correct.total(), guessed.total(), gold.total())
    assert [metrics[f"lenient_{name}"] for name in ("precision", "recall", "f1")] == list(expected)


def test_strict_and_lenient_differ_where_they_should():
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]
    predicted = [["I-PER", "I-PER", "O"], ["B-LOC", "I-PER", "O"]]
    metrics = computed(gold, predicted)
    # strict: only LOC is an entity; lenient: I-PER opens one too, rightly in the first sentence only
    assert (metrics["entity_precision"], metrics["entity_recall"]) == (1.0, 0.5)
    assert (metrics["lenient_precision"], metrics["lenient_recall"]) == (2 / 3, 1.0)


@given(
    pairs(max_sentences=8),
    st.lists(st.integers(0, 2), min_size=8, max_size=8),
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 500)), max_size=6),
    st.permutations(range(3)),
)
def test_merged_shards_equal_one_state(pair, shard_of, losses, order):
    gold, predicted = pair
    state, shards = EntityState(), [EntityState() for _ in range(3)]
    state.update(gold, predicted)
    for i, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        shards[shard_of[i]].update([gold_tags], [predicted_tags])
    for i, (loss, weight) in enumerate(losses):
        state.update([], [], loss, weight)
        shards[i % 3].update([], [], loss, weight)
    merged = EntityState()
    for i in order:
        merged.merge(shards[i])
    assert merged.compute() == state.compute()  # equal to the last bit, not approximately
    assert merged.intervals(samples=20) == state.intervals(samples=20)


def test_loss_is_a_mean_over_weights_not_over_batches():
    state = EntityState()
    assert "loss" not in state.compute()
    state.update([], [], loss_sum=10.0, weight_sum=1.0)
    state.update([], [], loss_sum=0.0, weight_sum=9.0)
    assert state.compute()["loss"] == 1.0


def test_token_scores_per_class():
    metrics = computed([["B-PER", "O", "O", "O"], ["B-PER"]], [["B-PER", "B-PER", "O", "O"], ["B-ORG"]])
    assert metrics["token_accuracy"] == 3 / 5 and metrics["token_support"] == 5
    names = ("precision", "recall", "f1", "support")
    assert [metrics[f"token_{n}/B-PER"] for n in names] == [1 / 2, 1 / 2, 1 / 2, 2]
    assert [metrics[f"token_{n}/O"] for n in names] == [1.0, 2 / 3, 0.8, 3]
    assert [metrics[f"token_{n}/B-ORG"] for n in names] == [0, 0, 0, 0]


@pytest.mark.parametrize("pair", [([], []), ([[]], [[]]), ([["O"]], [["O"]]), ([["B-X"]], [["O"]])])
def test_undefined_scores_are_zero_without_warnings(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = EntityState()
        state.update(*pair)
        metrics, intervals = state.compute(), state.intervals(samples=10)
    for name in ("entity_precision", "entity_recall", "entity_f1", "entity_f1_macro", "entity_f1_weighted"):
        assert metrics[name] == 0.0
    assert intervals["entity_f1"] == [0.0, 0.0]


def test_unequal_lengths_and_foreign_tags_leave_the_state_unchanged():
    state = EntityState()
    state.update([["B-X", "O"]], [["B-X", "O"]], 1.0, 2.0)
    before = state.compute()
    with pytest.raises(ValueError, match="1 gold sentences but 0 predicted"):
        state.update([["O"]], [])
    with pytest.raises(ValueError, match="sentence 1: 1 gold tags but 2 predicted"):
        state.update([["B-X"], ["O"]], [["B-X"], ["O", "O"]])
    with pytest.raises(ValueError, match="'S-X' is not IOB2"):
        state.update([["B-X"], ["S-X"]], [["B-X"], ["O"]])
    assert state.compute() == before


def test_entities_do_not_cross_sentences():
    metrics = computed([["O", "B-X"], ["I-X", "O"]], [["O", "B-X"], ["I-X", "O"]])
    assert metrics["entity_support"] == 1 and metrics["lenient_support"] == 2


def test_large_corpora_equal_seqeval_too():
    rng = random.Random(0)
    gold = [rng.choices(TAGS, [8] + [1] * (len(TAGS) - 1), k=25) for _ in range(400)]
    predicted = [[tag if rng.random() < 0.8 else rng.choice(TAGS) for tag in tags] for tags in gold]
    expected = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True)
    assert_equals_seqeval(computed(gold, predicted), "entity", expected)
