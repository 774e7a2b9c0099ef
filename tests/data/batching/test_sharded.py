"""Tests of batches made of parts: the same whoever feeds which rows, and every window once an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching import mixed
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.sharded import ShardedLoader, shards_of_rows
from jaxft.data.encoding.sentences import encode_sentences
from tests.data.batching.test_loader import corpus_of
from tests.data.tiny_text import LABELS, tokenizer

LENGTHS = st.lists(st.one_of(st.integers(3, 30), st.integers(3, 128)), min_size=1, max_size=50)


def windows_of(lengths):
    return encode_sentences(corpus_of(lengths), tokenizer(), LABELS, max_length=128)


def loaders(windows, hosts, rows, **more):
    """Of hosts, each a set of rows that it feeds, which know of each other what a run's processes tell each other."""
    parts, told = len(windows), []

    def make(only, answers):
        asked = iter(answers)

        def pool(own):
            told.append(own)
            return next(asked, [own.get(number, next(iter(own.values()))) for number in range(parts)])

        own = {number: windows[number] for number in shards_of_rows(only, rows, parts)}
        options = {"max_length": 128, "seed": 5, "pad_id": 7} | more
        return ShardedLoader(own, parts=parts, pool=pool, rows=rows, only=only, **options)

    make(np.arange(rows), [])  # who has all parts has all answers
    answers = [[own[number] for number in range(parts)] for own in told]
    return [make(np.array(only), answers) for only in hosts]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(LENGTHS, min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 4]),
    st.randoms(use_true_random=False),
)
def test_batches_are_the_same_whoever_feeds_which_rows(lengths, each, random):
    parts = len(lengths)
    rows = parts * each
    windows = [windows_of(one) for one in lengths]
    order = random.sample(range(rows), rows)
    cut = random.randint(1, rows)
    hosts = [sorted(some) for some in (order[:cut], order[cut:]) if some]
    whole, *several = loaders(windows, [range(rows), *hosts], rows)
    assert whole.window_count == sum(map(len, lengths))
    [shape] = whole.shapes
    assert all(one.shapes == [shape] and one.steps_per_epoch == whole.steps_per_epoch for one in several)
    assert len({one.order() for one in (whole, *several)}) == 1
    tokens = 0
    for epoch in range(2):
        seen = [[] for _ in lengths]
        for step in range(epoch * whole.steps_per_epoch, (epoch + 1) * whole.steps_per_epoch):
            batch = whole.batch(step)
            tokens += batch.tokens
            assert batch.tokens == (batch.arrays["segment_ids"] > 0).sum()
            for number, found in enumerate(seen):
                own = batch.windows[number * each : (number + 1) * each]
                found += own[own >= 0].tolist()
            for only, one in zip(hosts, several, strict=True):
                part = one.batch(step)
                for name, values in batch.arrays.items():
                    assert np.array_equal(part.arrays[name], values[only]), name
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                own, start = windows[row // each], batch.starts[row, segment]
                ids = own.input_ids[slice(*own.offsets[batch.windows[row, segment] :][:2])]
                assert np.array_equal(batch.arrays["input_ids"][row, start : start + len(ids)], ids)
                crosses = start // (shape.block_length or 128) != (start + len(ids) - 1) // (
                    shape.block_length or 128
                )
                assert (
                    not crosses
                    or (shape.whole_row_period and row % shape.whole_row_period == 0)
                    or not shape.block_length
                )
            free = batch.arrays["segment_ids"] == 0
            assert (batch.arrays["input_ids"][free] == 7).all()
        assert [sorted(found) for found in seen] == [list(range(len(one))) for one in lengths]
    slots = 2 * whole.steps_per_epoch * shape.slots
    assert whole.padding_fraction == pytest.approx(1 - tokens / slots)
    with pytest.raises(IndexError):
        whole.batch(-1)


def test_parts_are_shuffled_by_themselves_and_a_short_ones_rows_lie_apart():
    long, short = [20] * 240, [20] * 60
    [loader] = loaders([windows_of(one) for one in (long, long, short, short)], [range(4)], 4)
    batches = [loader.batch(step) for step in range(2 * loader.steps_per_epoch)]
    orders = [
        [
            tuple(batch.windows[part])
            for batch in batches[epoch * loader.steps_per_epoch :][: loader.steps_per_epoch]
        ]
        for part in range(4)
        for epoch in range(2)
    ]
    assert len({tuple(order) for order in orders}) == 8  # none like another, in parts nor epochs
    for short in orders[4], orders[6]:
        filled = [index for index, row in enumerate(short) if row[0] >= 0]
        assert len(filled) == loader.steps_per_epoch // 4 and set(np.diff(filled)) == {4}
    [loader] = loaders([windows_of([20] * count) for count in (240, 234, 234, 234)], [range(4)], 4)
    empty = [(loader.batch(step).windows < 0).all(axis=1).sum() for step in range(loader.steps_per_epoch)]
    assert max(empty) == 1 and sum(empty) == 3 and loader.uneven() is None
    [loader] = loaders([windows_of([20] * count) for count in (240, 120)], [range(2)], 2)
    said = "warning: parts are of different sizes: part 2 of 2 has rows for 20 of an epoch's 40 steps; give files of"
    assert loader.uneven().startswith(said)


def test_large_parts_come_in_chunks(monkeypatch):
    """Their rows are of the blocks that all parts have, also where a part by itself would have others."""
    monkeypatch.setattr(mixed, "CHUNK", 200)
    lengths = [10] * 2000, [40] * 120
    windows = [windows_of(one) for one in lengths]
    [loader] = loaders(windows, [range(4)], 4)
    assert all(isinstance(one, ChunkedLoader) for one in loader._loaders.values())
    [shape] = loader.shapes
    assert shape.block_length
    for part, own in enumerate(windows):
        found = []
        for step in range(loader.steps_per_epoch):
            rows = slice(2 * part, 2 * part + 2)
            batch = loader.batch(step)
            for place in zip(*np.nonzero(batch.windows[rows] >= 0), strict=True):
                window, start = batch.windows[rows][place], batch.starts[rows][place]
                found.append(window)
                if start // shape.block_length != (start + own.lengths[window] - 1) // shape.block_length:
                    assert shape.whole_row_period and place[0] % shape.whole_row_period == 0
        assert sorted(found) == list(range(len(own)))
