"""Bootstrap intervals have the same distribution as resampling sentences one by one, and are seeded."""

import random

import numpy as np
import pytest

from jaxft.metrics.entities import EntityState
from jaxft.metrics.f1 import precision_recall_f1

NAMES = ("entity_precision", "entity_recall", "entity_f1")


def random_sentences(count: int):
    rng = random.Random(1)
    gold = [rng.choices(["O", "B-X", "B-Y"], [5, 2, 1], k=rng.randint(1, 12)) for _ in range(count)]
    predicted = [[tag if rng.random() < 0.75 else rng.choice(["O", "B-X"]) for tag in tags] for tags in gold]
    return gold, predicted


def test_intervals_equal_resampling_sentences_one_by_one():
    gold, predicted = random_sentences(120)
    state, rows = EntityState(), []
    for pair in zip(gold, predicted, strict=True):
        sentence_state = EntityState()
        sentence_state.update([pair[0]], [pair[1]])
        state.merge(sentence_state)
        (row,) = sentence_state.sentences
        rows.append(row)
    rows = np.array(rows)
    drawn = np.random.default_rng(3).integers(len(rows), size=(20_000, len(rows)))
    sums = rows[drawn].sum(axis=1)
    intervals, metrics = state.intervals(samples=20_000), state.compute()
    for name, values in zip(NAMES, precision_recall_f1(*sums.T), strict=True):
        # 20,000 resamples fix a 2.5% quantile to about 0.002 here
        assert intervals[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.004)
        assert intervals[name][0] < metrics[name] < intervals[name][1]


def test_intervals_are_seeded_and_describe_their_method():
    state = EntityState()
    state.update(*random_sentences(50))
    first = state.intervals(samples=1500, seed=7)
    assert first == state.intervals(samples=1500, seed=7)
    assert first["entity_f1"] != state.intervals(samples=1500, seed=8)["entity_f1"]
    assert first["method"] == "percentile bootstrap over sentences"
    assert (first["confidence"], first["samples"], first["seed"], first["sentences"]) == (0.95, 1500, 7, 50)


def test_more_sentences_give_narrower_intervals():
    def width(times: int) -> float:
        state = EntityState()
        for _ in range(times):
            state.update(*random_sentences(40))
        low, high = state.intervals(samples=2000)["entity_f1"]
        return high - low

    assert width(16) == pytest.approx(width(1) / 4, rel=0.15)
