"""Masks are a function of seed, epoch, window and place; their number is known ahead, and words stay together."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching.batch import TOKEN_LABELS
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.output_positions import LABELLED_TOKENS, prune_batches
from jaxft.data.ragged import offsets_from_lengths
from jaxft.tasks.masked_lm.masking import MASK_SHARE, RANDOM_SHARE, MaskedWindows, Masking

MASK, WORDS = 4, np.arange(10, 90, dtype=np.int32)


def make_windows(rng, count, *, longest=30, probability=0.15, whole_words=False) -> MaskedWindows:
    """Windows of random tokens between two special ones, in words of one to four tokens."""
    lengths = rng.integers(2, longest + 1, count)
    offsets = offsets_from_lengths(lengths)
    ids = rng.integers(10, 90, offsets[-1]).astype(np.int32)
    word = np.cumsum(rng.random(offsets[-1]) < 0.5).astype(np.int32)
    is_special = np.zeros(offsets[-1], bool)
    is_special[offsets[:-1]] = is_special[offsets[1:] - 1] = True
    ids[is_special], word[is_special] = 2, -1
    columns = {"input_ids": ids, "labels": np.where(is_special, -100, ids).astype(np.int32), "word": word}
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), values) for name, values in columns.items()
    }
    table = pa.RecordBatch.from_pydict(lists | {"sentence": pa.array(np.arange(count, dtype=np.int32))})
    return MaskedWindows(table, Masking(probability, whole_words, MASK, WORDS))


def loader_of(windows, rows=4, **options):
    return make_loader(windows, rows=rows, max_length=32, arrays=TOKEN_LABELS, **options)


def read_masks(windows, loader, steps) -> dict[int, tuple]:
    """Returns input ids, labels and weights of each window in some steps."""
    masks = {}
    for step in steps:
        batch = loader.batch(step)
        for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
            window, start = batch.windows[row, segment], batch.starts[row, segment]
            place = row, slice(start, start + windows.lengths[window])
            masks[int(window)] = tuple(
                tuple(batch.arrays[name][place].tolist()) for name in ("input_ids", "labels", "weights")
            )
    return masks


def test_masks_are_the_same_in_any_rows_and_others_in_each_epoch():
    windows = make_windows(np.random.default_rng(0), 60)
    epochs = {}
    for rows, options in ((4, {}), (7, {}), (3, {"pack": False}), (4, {"max_segments": 1})):
        loader = loader_of(windows, rows, seed=5, **options)
        count = loader.steps_per_epoch
        for epoch in range(2):
            masks = read_masks(windows, loader, range(epoch * count, (epoch + 1) * count))
            assert len(masks) == 60 and masks == epochs.setdefault(epoch, masks)
    assert sum(epochs[0][window] != epochs[1][window] for window in range(60)) > 40
    # An evaluation masks the same tokens whatever the seed.
    fixed = [
        read_masks(windows, loader, range(loader.steps_per_epoch))
        for loader in (loader_of(windows, seed=seed, shuffle=False) for seed in (1, 2))
    ]
    assert fixed[0] == fixed[1] != epochs[0]


def test_a_process_masks_its_rows_as_one_process_masks_all():
    windows = make_windows(np.random.default_rng(0), 60)
    everything, half = loader_of(windows, seed=3), loader_of(windows, seed=3, only=np.array([2, 3]))
    for step in (0, everything.steps_per_epoch + 1):
        for name, values in half.batch(step).arrays.items():
            np.testing.assert_array_equal(values, everything.batch(step).arrays[name][2:])


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    probability=st.sampled_from([0.01, 0.15, 0.5, 1.0]),
    whole_words=st.booleans(),
)
def test_labels_are_the_tokens_that_stood_there_and_their_number_is_known(seed, probability, whole_words):
    rng = np.random.default_rng(seed)
    windows = make_windows(rng, 40, probability=probability, whole_words=whole_words)
    loader = loader_of(windows, seed=seed)
    for window, (ids, labels, weights) in read_masks(windows, loader, range(loader.steps_per_epoch)).items():
        span = slice(*windows.offsets[window : window + 2])
        original, word = windows.input_ids[span], windows.word[span]
        weights, ids, labels = np.array(weights), np.array(ids), np.array(labels)
        masked = weights > 0
        assert not masked[word < 0].any()  # special tokens
        np.testing.assert_array_equal(labels, np.where(masked, original, 0))
        np.testing.assert_array_equal(ids[~masked], original[~masked])
        units = len(set(word[word >= 0])) if whole_words else np.count_nonzero(word >= 0)
        expected = max(1, int(probability * units + 0.5)) if units else 0
        if whole_words:
            assert all(len(set(masked[word == number])) == 1 for number in set(word))
            assert len(set(word[masked])) == expected and masked.sum() <= windows.label_counts[window]
        else:
            assert masked.sum() == expected == windows.label_counts[window]


def test_of_the_masked_tokens_most_become_masks_and_some_random_words():
    windows = make_windows(np.random.default_rng(0), 3000)
    loader = loader_of(windows, rows=64, seed=0)
    shares, replacements = np.zeros(3), []
    for step in range(loader.steps_per_epoch):
        arrays = loader.batch(step).arrays
        masked = arrays["weights"] > 0
        ids, labels = arrays["input_ids"][masked], arrays["labels"][masked]
        kinds = ids == MASK, (ids != MASK) & (ids != labels), ids == labels
        shares += [kind.sum() for kind in kinds]
        replacements.append(ids[kinds[1]])
    assert shares.sum() > 6000
    np.testing.assert_allclose(shares / shares.sum(), [MASK_SHARE, RANDOM_SHARE, 0.1], atol=0.015)
    assert set(np.concatenate(replacements)) == set(WORDS.tolist())  # never a special token


def test_batches_say_which_positions_are_read_in_every_epoch():
    """The number of masks that shapes have room for is counted before any is drawn."""
    windows = make_windows(np.random.default_rng(0), 50, whole_words=True)
    loader = loader_of(windows, seed=1)
    steps = 3 * loader.steps_per_epoch
    batches = prune_batches(loader, LABELLED_TOKENS, {0: windows}, steps=steps, groups=2)
    for step in range(steps):
        arrays = batches.batch(step).arrays
        weights = arrays["weights"].reshape(2, -1)
        read = np.take_along_axis(weights, arrays["output_positions"], axis=1)
        assert read.sum() == weights.sum()


@pytest.mark.parametrize("chunk", [None, 20])
def test_slices_of_windows_are_masked_too(chunk):
    windows = make_windows(np.random.default_rng(0), 60)
    loader = loader_of(windows, seed=5, chunk=chunk)
    masks = read_masks(windows, loader, range(loader.steps_per_epoch))
    assert len(masks) == 60
    assert all(sum(weights) == windows.label_counts[window] for window, (_, _, weights) in masks.items())
