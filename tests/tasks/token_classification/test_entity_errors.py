"""Every entity mistake lands in exactly one category, and in the one that its definition says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.metrics.entities import EntityState
from jaxft.tasks.token_classification.entity_errors import CATEGORIES, SIDES, collect_entities, find_errors
from tests.metrics.tagged import pairs


@given(pairs(), st.lists(st.sampled_from(["a", "b"]), min_size=48, max_size=48))
def test_categories_partition_the_errors(pair, vocabulary):
    gold, predicted = pair
    letters = iter(vocabulary)
    words = [[next(letters) for _ in tags] for tags in gold]
    state = EntityState()
    state.update(gold, predicted)
    correct = state.strict.correct.total()
    analysis = find_errors(words, gold, predicted, {("a",): {"PER"}})

    unique = {(error.side, error.sentence, error.span) for error in analysis.errors}
    assert len(unique) == len(analysis.errors)
    counts = analysis.counts()
    for side, total, entities in zip(
        SIDES, (state.strict.gold, state.strict.predicted), ("gold", "predicted"), strict=True
    ):
        error_count = sum(sum(counts[category].get(side, {}).values()) for category in CATEGORIES)
        assert error_count == total.total() - correct
        assert sum(counts[entities].values()) == total.total()
    assert sum(counts["type"][SIDES[0]].values()) == sum(counts["type"][SIDES[1]].values())
    for error in analysis.errors:
        assert (error.other is None) == (error.category in ("missed", "spurious"))
        assert error.seen == (error.text == "a")


def categories(words, gold, predicted, seen=None):
    analysis = find_errors([words.split()], [gold.split()], [predicted.split()], seen or {})
    return [(e.category, e.side, e.text, e.other_text) for e in analysis.errors]


def test_definitions():
    negative, positive = SIDES
    assert categories("in New York", "O B-LOC I-LOC", "O B-ORG I-ORG") == [
        ("type", negative, "New York", "New York"),
        ("type", positive, "New York", "New York"),
    ]
    assert categories("in New York", "O B-LOC I-LOC", "O O B-LOC") == [
        ("boundary", negative, "New York", "York"),
        ("boundary", positive, "York", "New York"),
    ]
    # wrong borders and wrong type: boundary
    assert categories("Bank of England", "B-ORG I-ORG I-ORG", "O O B-LOC") == [
        ("boundary", negative, "Bank of England", "England"),
        ("boundary", positive, "England", "Bank of England"),
    ]
    # two gold entities in one predicted: three errors, the predicted one set against that of its own type
    assert categories("Paris Rome", "B-LOC B-PER", "B-PER I-PER") == [
        ("boundary", negative, "Paris", "Paris Rome"),
        ("boundary", negative, "Rome", "Paris Rome"),
        ("boundary", positive, "Paris Rome", "Rome"),
    ]
    assert categories("Rome fell today", "B-LOC O O", "O O B-LOC") == [
        ("missed", negative, "Rome", ""),
        ("spurious", positive, "today", ""),
    ]
    assert categories("Rome fell", "B-LOC O", "B-LOC O") == []


def test_seen_means_the_same_words_as_a_training_entity_of_any_type():
    seen = collect_entities(
        [(["New", "York", "won"], ["B-ORG", "I-ORG", "O"]), (["New", "York"], ["B-LOC", "I-LOC"])]
    )
    assert seen == {("New", "York"): {"LOC", "ORG"}}
    words = [["New", "York"], ["new", "York"], ["York"]]
    gold = [["B-PER", "I-PER"], ["B-LOC", "I-LOC"], ["B-LOC"]]
    analysis = find_errors(words, gold, [["O"] * len(tags) for tags in gold], seen)
    assert [error.seen_types for error in analysis.errors] == [("LOC", "ORG"), (), ()]
    assert analysis.counts()["missed"] == {"false_negatives": {"seen": 1, "unseen": 2}}
    assert analysis.counts()["gold"] == {"seen": 1, "unseen": 2}


def test_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match="sentence 0: 2 words, 1 gold and 2 predicted"):
        find_errors([["a", "b"]], [["O"]], [["O", "O"]], {})
