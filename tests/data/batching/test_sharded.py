"""Tests of batches made of shards: the same whoever feeds which rows, and every window once an epoch."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching import chunked
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.output_positions import FIRST_TOKENS, prune_batches
from jaxft.data.batching.sharded import make_sharded_loader, shards_of_rows
from jaxft.data.encoding.sentences import encode_sentences
from tests.data.batching.test_loader import corpus_of
from tests.data.tiny_text import LABELS, tokenizer

LENGTHS = st.lists(st.one_of(st.integers(3, 30), st.integers(3, 128)), min_size=1, max_size=50)


def windows_of(lengths):
    return encode_sentences(corpus_of(lengths), tokenizer(), LABELS, max_length=128)


def loaders(windows, hosts, rows, **more):
    """Returns a loader for each host, a set of rows that it feeds; they exchange what a run's processes do.

    windows: of each shard.
    """
    shards, told = len(windows), []

    def make(only, answers):
        asked = iter(answers)

        def gather(facts):
            told.append(facts)
            return next(asked, [facts.get(number, next(iter(facts.values()))) for number in range(shards)])

        host_windows = {number: windows[number] for number in shards_of_rows(only, rows, shards)}
        options = {"max_length": 128, "seed": 5} | more
        return make_sharded_loader(
            host_windows, shards=shards, gather=gather, rows=rows, only=only, **options
        )

    make(np.arange(rows), [])  # a host with all shards has all answers
    answers = [[facts[number] for number in range(shards)] for facts in told]
    return [make(np.array(only), answers) for only in hosts]


@settings(max_examples=50)
@given(
    st.lists(LENGTHS, min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 4]),
    st.randoms(use_true_random=False),
)
def test_batches_are_the_same_whoever_feeds_which_rows(lengths, each, random):
    rows = len(lengths) * each
    windows = [windows_of(shard_lengths) for shard_lengths in lengths]
    order = random.sample(range(rows), rows)
    cut = random.randint(1, rows)
    hosts = [sorted(host_rows) for host_rows in (order[:cut], order[cut:]) if host_rows]
    complete, *partial = loaders(windows, [range(rows), *hosts], rows)
    assert complete.window_count == sum(map(len, lengths))
    [shape] = complete.shapes
    for loader in partial:
        assert loader.shapes == (shape,) and loader.steps_per_epoch == complete.steps_per_epoch
        assert loader.order() == complete.order()
    block = shape.blocks.length or 128
    tokens = 0
    for epoch in range(2):
        seen = [[] for _ in lengths]
        for step in range(epoch * complete.steps_per_epoch, (epoch + 1) * complete.steps_per_epoch):
            batch = complete.batch(step)
            tokens += batch.units
            assert batch.units == (batch.arrays["segment_ids"] > 0).sum()
            for number, shard_seen in enumerate(seen):
                shard_windows = batch.windows[number * each : (number + 1) * each]
                shard_seen += shard_windows[shard_windows >= 0].tolist()
            for only, loader in zip(hosts, partial, strict=True):
                host_batch = loader.batch(step)
                for name, values in batch.arrays.items():
                    assert np.array_equal(host_batch.arrays[name], values[only]), name
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                shard, start = windows[row // each], batch.starts[row, segment]
                ids = shard.input_ids[slice(*shard.offsets[batch.windows[row, segment] :][:2])]
                assert np.array_equal(batch.arrays["input_ids"][row, start : start + len(ids)], ids)
                if start // block != (start + len(ids) - 1) // block:
                    assert shape.blocks.whole_row_period and row % shape.blocks.whole_row_period == 0
            free = batch.arrays["segment_ids"] == 0
            assert not batch.arrays["input_ids"][free].any()
        assert [sorted(numbers) for numbers in seen] == [list(range(len(shard))) for shard in windows]
    slots = 2 * complete.steps_per_epoch * shape.slots
    assert complete.padding_fraction == pytest.approx(1 - tokens / slots)
    with pytest.raises(IndexError):
        complete.batch(-1)


def test_shards_are_shuffled_by_themselves_and_a_short_ones_rows_are_spread():
    long, short = [20] * 240, [20] * 60
    [loader] = loaders([windows_of(lengths) for lengths in (long, long, short, short)], [range(4)], 4)
    batches = [loader.batch(step) for step in range(2 * loader.steps_per_epoch)]
    orders = [
        [
            tuple(batch.windows[shard])
            for batch in batches[epoch * loader.steps_per_epoch :][: loader.steps_per_epoch]
        ]
        for shard in range(4)
        for epoch in range(2)
    ]
    assert len({tuple(order) for order in orders}) == 8  # no two alike, of shards or epochs
    for short in orders[4], orders[6]:
        filled = [index for index, row in enumerate(short) if row[0] >= 0]
        assert len(filled) == loader.steps_per_epoch // 4 and set(np.diff(filled)) == {4}
    [loader] = loaders([windows_of([20] * count) for count in (240, 234, 234, 234)], [range(4)], 4)
    empty = [(loader.batch(step).windows < 0).all(axis=1).sum() for step in range(loader.steps_per_epoch)]
    assert max(empty) == 1 and sum(empty) == 3 and loader.uneven_warning() is None
    [loader] = loaders([windows_of([20] * count) for count in (240, 120)], [range(2)], 2)
    warning = "warning: shards are of different sizes: shard 2 of 2 has rows for 20 of an epoch's 40 steps; give files"
    assert loader.uneven_warning().startswith(warning)


def test_large_shards_come_in_chunks(monkeypatch):
    """Checks that rows have the blocks of all shards, also where a shard by itself would have others."""
    monkeypatch.setattr(chunked, "CHUNK_WINDOWS", 200)
    lengths = [10] * 2000, [40] * 120
    windows = [windows_of(shard_lengths) for shard_lengths in lengths]
    [loader] = loaders(windows, [range(4)], 4)
    assert all(isinstance(shard, ChunkedLoader) for shard in loader.loaders.values())
    [shape] = loader.shapes
    assert shape.blocks.length
    for number, shard in enumerate(windows):
        seen = []
        for step in range(loader.steps_per_epoch):
            rows = slice(2 * number, 2 * number + 2)
            batch = loader.batch(step)
            for place in zip(*np.nonzero(batch.windows[rows] >= 0), strict=True):
                window, start = batch.windows[rows][place], batch.starts[rows][place]
                seen.append(window)
                if start // shape.blocks.length != (start + shard.lengths[window] - 1) // shape.blocks.length:
                    assert shape.blocks.whole_row_period and place[0] % shape.blocks.whole_row_period == 0
        assert sorted(seen) == list(range(len(shard)))


def test_positions_that_are_read_are_the_same_whoever_feeds_which_rows():
    """Shards share the largest number of positions in a group, which one host alone could not know."""
    rng = np.random.default_rng(0)
    windows = [windows_of(rng.integers(3, longest, 400 if longest < 10 else 40)) for longest in (6, 128)]
    rows, hosts, told = 4, [range(2), range(2, 4)], {}
    complete, *partial = loaders(windows, [range(rows), *hosts], rows)

    def pruned(loader, gather):
        host_windows = {number: windows[number] for number in loader.loaders}
        loader = dataclasses.replace(loader, gather=gather)
        return prune_batches(loader, FIRST_TOKENS, host_windows, steps=20, groups=rows)

    def record(largest):
        told.update(largest)
        return list(largest.values())

    expected = pruned(complete, record)
    assert told[1] + 16 < told[0] <= expected.shapes[0].output_shape[1] < 128
    for only, loader in zip(hosts, partial, strict=True):
        loader = pruned(loader, lambda _: list(told.values()))
        assert loader.shapes == expected.shapes
        for step in range(20):
            positions = expected.batch(step).arrays["output_positions"]
            assert np.array_equal(loader.batch(step).arrays["output_positions"], positions[only])
