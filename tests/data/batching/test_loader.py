"""Tests of batches: a pure function of seed and step, every window once an epoch, every word once back."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching.batch import Shape, word_values
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.output_positions import (
    FIRST_TOKENS,
    LABELLED_TOKENS,
    LAST_TOKENS,
    OUTPUT_MULTIPLE,
    OUTPUT_PARTS,
    prune_batches,
)
from jaxft.data.encoding.encoded import ArraySpec, Rows
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from tests.conftest import REPOSITORY
from tests.data.tiny_text import LABELS, corpora, minilm, plain, tokenizer

WNUT17 = REPOSITORY / "../shared/data/wnut17"


def corpus_of(lengths):
    """Returns sentences of which each gives one window of its length, special tokens included."""
    return plain(*[" ".join(np.resize(list("abcdefgh"), n - 2)) for n in lengths])


def loader_of(lengths, max_length=32, **settings):
    """Returns the loader of windows of these lengths."""
    windows = encode_sentences(corpus_of(lengths), tokenizer(), LABELS, max_length=max_length)
    settings = {"rows": 4, "max_length": max_length} | settings
    return make_loader(windows, **settings)


def windows_in(batch):
    """Returns the windows of a batch, row by row."""
    return batch.windows[batch.windows >= 0].tolist()


def equal(left, right):
    """Tells whether two batches are the same in all they hold."""
    return (
        all(np.array_equal(left.arrays[name], right.arrays[name]) for name in left.arrays)
        and np.array_equal(left.windows, right.windows)
        and np.array_equal(left.starts, right.starts)
        and (left.units, left.shape) == (right.units, right.shape)
    )


LENGTHS = st.lists(st.integers(3, 32), min_size=1, max_size=60)
SETTINGS = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 6),
        "pack": st.booleans(),
        "shuffle": st.booleans(),
        "seed": st.integers(0, 2**40),
        "buckets": st.sampled_from([None, (8, 16, 32), (32,)]),
    }
)


@settings(max_examples=40)
@given(
    LENGTHS.filter(lambda lengths: len(lengths) > 1),
    SETTINGS,
    st.integers(1, 60),
    st.randoms(use_true_random=False),
)
def test_chunks_are_batched_as_their_windows_alone_and_an_epoch_holds_every_window_once(
    lengths, setting, chunk, random
):
    """Holds in any order of asking, with only one chunk's plan in memory."""
    corpus = encode_sentences(corpus_of(lengths), tokenizer(), LABELS, max_length=32)
    options = {"max_length": 32} | setting
    chunk = min(chunk, len(lengths) - 1)
    loader = make_loader(corpus, chunk=chunk, **options)
    assert isinstance(loader, ChunkedLoader)
    batches = [loader.batch(step) for step in range(2 * loader.steps_per_epoch)]
    for epoch in range(2):
        of_epoch = batches[epoch * loader.steps_per_epoch :][: loader.steps_per_epoch]
        windows = [window for batch in of_epoch for window in windows_in(batch)]
        assert sorted(windows) == list(range(len(lengths)))
        tokens, slots = sum(batch.units for batch in of_epoch), sum(batch.shape.slots for batch in of_epoch)
        assert tokens == sum(lengths) and loader.padding_fraction == pytest.approx(1 - tokens / slots)
    assert {batch.shape for batch in batches} == set(loader.shapes)
    for batch in batches:
        row, segment = np.nonzero(batch.windows >= 0)
        for place in zip(row, segment, strict=True):
            start, ids = (
                batch.starts[place],
                corpus.input_ids[slice(*corpus.offsets[batch.windows[place] :][:2])],
            )
            assert np.array_equal(batch.arrays["input_ids"][place[0], start : start + len(ids)], ids)
    remade = make_loader(corpus, chunk=chunk, **options)
    for step in random.sample(range(len(batches)), len(batches)):
        assert equal(remade.batch(step), batches[step])


@settings(max_examples=80)
@given(LENGTHS, SETTINGS, st.randoms(use_true_random=False))
def test_batch_is_a_pure_function_and_an_epoch_holds_every_window_once(lengths, setting, random):
    loader = loader_of(lengths, **setting)
    epochs = 3
    batches = [loader.batch(step) for step in range(epochs * loader.steps_per_epoch)]
    for epoch in range(epochs):
        of_epoch = batches[epoch * loader.steps_per_epoch : (epoch + 1) * loader.steps_per_epoch]
        assert sorted(w for batch in of_epoch for w in windows_in(batch)) == list(range(len(lengths)))
    assert {batch.arrays["input_ids"].shape for batch in batches} == {
        (shape.rows, shape.length) for shape in loader.shapes
    }
    assert len({batch.windows.shape for batch in batches}) == 1
    other = loader_of(lengths, **setting)
    for step in random.choices(range(len(batches)), k=10):
        assert equal(other.batch(step), batches[step])
    slots = sum(batch.arrays["input_ids"].size for batch in batches)
    assert np.isclose(loader.padding_fraction, 1 - sum(batch.units for batch in batches) / slots)


@settings(max_examples=60)
@given(
    st.lists(st.integers(3, 40), min_size=1, max_size=200),
    st.lists(st.integers(3, 128), max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([None, 3, 20]),
    st.sampled_from([None, 60]),
)
def test_only_the_rows_that_may_hold_segments_across_blocks(short, long, rows, shuffle, most, chunk):
    lengths = np.random.default_rng(0).permutation(short + long)
    loader = loader_of(lengths, 128, rows=rows, shuffle=shuffle, max_segments=most, chunk=chunk)
    [shape] = loader.shapes
    assert shape.blocks.length in (0, 32, 64) and (
        shape.blocks.whole_row_period == 0 or rows % shape.blocks.whole_row_period == 0
    )
    if len(short) > 150 and not long and most != 3:
        assert shape.blocks.length  # it is made use of
    for step in range(2 * loader.steps_per_epoch):
        batch = loader.batch(step)
        for row, segment in np.argwhere(batch.windows >= 0):
            first, size = batch.starts[row, segment], lengths[batch.windows[row, segment]]
            assert first + size <= 128
            if shape.blocks.length and (
                shape.blocks.whole_row_period == 0 or row % shape.blocks.whole_row_period
            ):
                assert first // shape.blocks.length == (first + size - 1) // shape.blocks.length


@settings(max_examples=30)
@given(LENGTHS, SETTINGS, st.randoms(use_true_random=False))
def test_processes_build_their_rows_of_the_same_batches(lengths, setting, random):
    """Checks that rows dealt to two loaders are those of one that builds all, the rest being the same."""
    rows = setting["rows"]
    complete = loader_of(lengths, **setting)
    mine = np.array(sorted(random.sample(range(rows), random.randint(0, rows))), np.int64)
    others = np.setdiff1d(np.arange(rows), mine)
    for only in (mine, others):
        partial = loader_of(lengths, **setting, only=only)
        for step in range(complete.steps_per_epoch):
            all_rows, its_rows = complete.batch(step), partial.batch(step)
            cut = {name: array[only] for name, array in all_rows.arrays.items()}
            assert equal(all_rows._replace(arrays=cut), its_rows)
            assert all(array.dtype == all_rows.arrays[name].dtype for name, array in its_rows.arrays.items())


@settings(max_examples=80)
@given(corpora(), st.integers(3, 30), SETTINGS)
def test_arrays_say_what_the_windows_say(corpus, max_length, setting):
    windows = encode_sentences(corpus, tokenizer(), LABELS, max_length=max_length)
    loader = make_loader(windows, max_length=max_length, **(setting | {"buckets": None}))
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        arrays = {name: array.copy() for name, array in batch.arrays.items()}
        for name, array in arrays.items():
            assert array.dtype == (np.float32 if name == "weights" else np.int32), name
        for row, segment in np.argwhere(batch.windows >= 0):
            window = batch.windows[row, segment]
            start = batch.starts[row, segment]
            piece = slice(*windows.offsets[window : window + 2])
            slots = slice(start, start + windows.lengths[window])
            labels = windows.labels[piece]
            assert (arrays["input_ids"][row, slots] == windows.input_ids[piece]).all()
            assert (arrays["segment_ids"][row, slots] == segment + 1).all()
            assert (arrays["positions"][row, slots] == np.arange(windows.lengths[window])).all()
            assert (arrays["labels"][row, slots] == np.maximum(labels, 0)).all()
            assert (arrays["weights"][row, slots] == (labels >= 0)).all()
            for name in ("input_ids", "segment_ids", "positions", "labels", "weights"):
                arrays[name][row, slots] = 0
        # What no segment covers is padding, and nothing else is left.
        assert all((array == 0).all() for array in arrays.values())
        assert batch.units == (batch.arrays["segment_ids"] > 0).sum()


@settings(max_examples=80)
@given(corpora(), st.integers(3, 30), SETTINGS, st.booleans())
def test_every_word_comes_back_exactly_once(corpus, max_length, setting, context):
    windows = encode_sentences(corpus, tokenizer(), LABELS, max_length=max_length, context=context)
    loader = make_loader(windows, max_length=max_length, **(setting | {"buckets": None}))
    word_labels = []
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        ids = batch.arrays["input_ids"]
        two = np.stack([ids, batch.arrays["labels"]], -1)
        sentence, word, value = word_values(batch, windows, two)
        assert value.shape == (len(word), 2)
        for s, w, (token, label) in zip(sentence.tolist(), word.tolist(), value.tolist(), strict=True):
            first = tokenizer()([[corpus[s].words[w].replace("\ud83d", "")]], is_split_into_words=True)
            assert token == (first["input_ids"][0] if len(first["input_ids"][0]) > 2 else [2, 1])[1]
            assert label == (LABELS.get(corpus[s].tags[w], 0) if corpus[s].tags else 0)
            word_labels.append((s, w))
    assert sorted(word_labels) == [
        (s, w) for s, sentence in enumerate(corpus) for w in range(len(sentence.words))
    ]


def test_epochs_and_seeds_differ_and_evaluation_keeps_its_order():
    lengths = np.random.default_rng(1).integers(3, 33, 200)
    loader, other = loader_of(lengths, seed=1), loader_of(lengths, seed=2)
    n = loader.steps_per_epoch
    epochs = [[windows_in(loader.batch(e * n + s)) for s in range(n)] for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [windows_in(other.batch(s)) for s in range(n)]
    # Not only the rows' order: which windows of equal length share a row changes too.
    rows = [
        {frozenset(r[r >= 0].tolist()) for s in range(n) for r in loader.batch(e * n + s).windows}
        for e in range(2)
    ]
    assert len(rows[0] & rows[1]) < len(rows[0]) / 2
    fixed = loader_of(lengths, shuffle=False)
    assert [windows_in(fixed.batch(s)) for s in range(n)] == [
        windows_in(fixed.batch(n + s)) for s in range(n)
    ]


@settings(max_examples=60)
@given(
    LENGTHS,
    SETTINGS,
    st.sampled_from([1, 2, 3]),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 20]),
    st.sampled_from([LABELLED_TOKENS, FIRST_TOKENS, LAST_TOKENS]),
)
def test_batches_name_each_position_that_is_read(lengths, setting, groups, steps, seed, chunk, rule):
    """Once, in any step that was counted, with no more others than rounding adds."""
    setting = setting | {"rows": setting["rows"] * groups, "chunk": chunk}
    plain = loader_of(lengths, **setting)
    loader = prune_batches(plain, rule, {0: plain.windows}, steps=steps, groups=groups)
    assert tuple(shape._replace(output_shape=(0, 0)) for shape in loader.shapes) == plain.shapes
    steps = -(-steps // loader.steps_per_epoch) * loader.steps_per_epoch  # of whole epochs
    most = dict.fromkeys(loader.shapes, 0)
    for step in range(steps):
        batch, same = loader.batch(step), plain.batch(step)
        positions = batch.arrays.pop("output_positions")
        assert all(np.array_equal(batch.arrays[name], value) for name, value in same.arrays.items())
        assert np.array_equal(batch.windows, same.windows) and batch.units == same.units
        assert batch.shape in loader.shapes and positions.shape == batch.shape.output_shape
        mask = rule.mask(batch.arrays)
        assert rule is LABELLED_TOKENS or mask.sum() == (batch.windows >= 0).sum()
        for group, is_read in zip(positions, mask.reshape(groups, -1), strict=True):
            assert len(set(group.tolist())) == len(group)
            count = int(is_read.sum())
            assert group[:count].tolist() == np.flatnonzero(is_read).tolist()
            most[batch.shape] = max(most[batch.shape], count)
    for shape, count in most.items():
        rounding = max(OUTPUT_MULTIPLE, shape.slots // groups // OUTPUT_PARTS)
        assert count <= shape.output_shape[1] < max(count, 1) + rounding


def test_the_order_is_that_of_every_version():
    """Pins the order: another one would break the resume of runs begun by an earlier version."""
    loader = loader_of([3, 9, 9, 17, 17, 20, 30, 9, 9], rows=2, seed=5)
    assert [windows_in(loader.batch(step)) for step in range(2 * loader.steps_per_epoch)] == PINNED


PINNED = [[4, 2, 3, 8], [5, 7, 0, 1], [6], [2, 3, 1], [5, 7, 0, 4, 8], [6]]


def test_an_order_has_a_hash_of_its_own():
    """Lets a resume or another process find out if its jaxft orders data differently."""
    lengths = [3, 9, 9, 17, 17, 20, 30, 9, 9]
    changes = ({}, {"seed": 1}, {"rows": 3}, {"pack": False})
    hashes = [loader_of(lengths, **changed).order() for changed in changes]
    hashes.append(loader_of(lengths[::-1]).order())
    assert len(set(hashes)) == 5 and loader_of(lengths).order() == hashes[0]
    chunked = [loader_of(4 * lengths, chunk=12, seed=seed).order() for seed in (0, 0, 1)]
    assert chunked[0] == chunked[1] != chunked[2]


def test_a_single_sentence_makes_a_batch():
    loader = loader_of([5])
    assert loader.steps_per_epoch == 1 and loader.shapes == (Shape(4, 32),)
    assert len(windows_in(loader.batch(3))) == 1


def test_no_windows_no_batches():
    loader = loader_of([])
    assert loader.steps_per_epoch == 0 and loader.shapes == ()
    with pytest.raises(IndexError, match="no batch 0"):
        loader.batch(0)


@pytest.mark.skipif(not WNUT17.exists(), reason="needs ../shared/data/wnut17")
def test_wnut17_packs_with_under_3_percent_waste_and_batches_are_quick():
    corpus = list(read_sentences(str(WNUT17 / "train.conll")))
    labels = {tag: index for index, tag in enumerate(sorted({t for s in corpus for t in s.tags}))}
    assert len(corpus) == 3394
    windows = encode_sentences(corpus, minilm(), labels, max_length=128)
    assert (windows.word >= 0).sum() == sum(len(s.words) for s in corpus)
    loader = make_loader(windows, rows=8, max_length=128)
    assert loader.padding_fraction < 0.03
    took = []
    for step in range(2 * loader.steps_per_epoch):
        began = time.perf_counter()
        loader.batch(step)
        took.append(time.perf_counter() - began)
    assert np.median(took) < 1e-3


@pytest.mark.parametrize("chunk", [None, 7])
def test_an_example_that_takes_a_row_comes_once_an_epoch_with_its_values(chunk):
    """In whatever order, over chunks; what has no example is 0."""
    x = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32)
    arrays = {"x": ArraySpec(np.float32, "row", (2,)), "weights": ArraySpec(np.float32, "row")}
    encoded = Rows({"x": x, "weights": np.ones(23, np.float32)})
    loader = make_loader(encoded, rows=4, max_length=1, arrays=arrays, seed=1, chunk=chunk)
    assert loader.shapes == (Shape(4, 1),) and loader.window_count == 23
    for epoch in range(2):
        seen = []
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(epoch * loader.steps_per_epoch + step)
            [numbers] = batch.windows.T
            seen += numbers[numbers >= 0].tolist()
            np.testing.assert_array_equal(batch.arrays["weights"], numbers >= 0)
            np.testing.assert_array_equal(batch.arrays["x"], np.where(numbers >= 0, x[numbers].T, 0).T)
            assert batch.units == (numbers >= 0).sum()
        assert sorted(seen) == list(range(23)) != seen
