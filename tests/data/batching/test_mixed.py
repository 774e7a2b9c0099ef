"""Tests of mixed data sets: each goes through complete passes at its own pace, in the proportions of the mix."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching import chunked
from jaxft.data.batching.batch import INPUTS, segment_labels
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.mixed import Mix
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError


def windows_of(lengths: list[list[int]]) -> Windows:
    """Returns windows of several data sets, in which each token is the number of its window."""
    flat = np.concatenate(lengths)
    offsets = np.concatenate(([0], np.cumsum(flat)))
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(
            offsets, pa.array(np.repeat(np.arange(len(flat)), flat).astype(np.int32))
        ),
        "sentence": pa.array(np.arange(len(flat), dtype=np.int32)),
        "data_set": pa.array(np.repeat(np.arange(len(lengths)), list(map(len, lengths))).astype(np.int32)),
    }
    return Windows(pa.RecordBatch.from_pydict(columns))


OPTIONS = {"max_length": 16, "seed": 3, "shuffle": True, "arrays": INPUTS}
SETS = st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=40), min_size=1, max_size=3)


@settings(max_examples=40)
@given(
    SETS,
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(
        [("size", True), ("temperature", False), ("temperature", True), ("weights", False), ("weights", True)]
    ),
)
def test_every_data_set_goes_through_complete_passes(lengths, rows, pack, kind_by_task):
    kind, by_task = kind_by_task
    weights = tuple(float(index + 1) for index in range(len(lengths))) if kind == "weights" else ()
    windows, mix = windows_of(lengths), Mix(kind, 5.0, weights, by_task)
    options = OPTIONS | {"rows": rows, "max_segments": 4, "pack": pack}
    try:
        loader = make_loader(windows, mix=mix, **options)
    except UserError as error:
        assert "an epoch has" in str(error)
        return
    [shape] = loader.shapes
    assert (shape.rows, shape.length) == (rows, 16)
    data_set, seen = windows.column("data_set"), [[] for _ in lengths]
    steps = 3 * loader.steps_per_epoch
    for step in range(steps):
        batch = loader.batch(step)
        sets_of_rows = [set(data_set[row[row >= 0]].tolist()) for row in batch.windows]
        assert all(len(sets) == 1 for sets in sets_of_rows)  # no row is mixed, and none is empty
        if by_task:
            assert len(set.union(*sets_of_rows)) == 1
        for row in batch.windows:
            for window in row[row >= 0]:
                seen[data_set[window]].append(int(window))
        for row, start, ids in zip(batch.windows, batch.starts, batch.arrays["input_ids"], strict=True):
            for window, first in zip(row[row >= 0], start, strict=False):
                size = windows.lengths[window]
                assert (ids[first : first + size] == window).all()
    for index, set_windows in enumerate(seen):
        counts = Counter(set_windows)
        # In the middle of a pass a window may be one ahead of another.
        assert max(counts.values()) - min(counts[w] for w in np.flatnonzero(data_set == index)) <= 1
    last = make_loader(windows, mix=mix, **options).batch(steps - 1)
    assert (last.windows == loader.batch(steps - 1).windows).all()


@pytest.mark.parametrize(
    ("mix", "share"),
    [
        (Mix("size", by_task=True), 0.9),
        (Mix("temperature", temperature=2.0), 0.75),
        (Mix("weights", weights=(1.0, 3.0)), 0.25),
        (Mix("weights", weights=(1.0, 3.0), by_task=True), 0.25),
    ],
)
def test_proportions_are_of_windows(mix, share):
    """Holds whatever their lengths: 900 short ones, of which a row holds four, and 100 that fill a row."""
    windows = windows_of([[4] * 900, [16] * 100])
    loader = make_loader(windows, mix=mix, rows=4, **OPTIONS)
    counts = np.zeros(2)
    for step in range(loader.steps_per_epoch):
        drawn = loader.batch(step).windows
        counts += np.bincount(windows.column("data_set")[drawn[drawn >= 0]], minlength=2)
    assert counts[0] / counts.sum() == pytest.approx(share, abs=0.03)
    assert loader.padding_fraction == pytest.approx(0)


def test_only_training_is_mixed():
    windows = windows_of([[4] * 9, [16] * 5])
    mixed = {"mix": Mix("temperature", 2.0)}
    order, mixed_order = (make_loader(windows, rows=2, **OPTIONS, **mix).order() for mix in ({}, mixed))
    assert order != mixed_order
    options = OPTIONS | {"rows": 2, "shuffle": False}
    assert make_loader(windows, **options, **mixed).order() == make_loader(windows, **options).order()


def test_many_windows_come_in_chunks(monkeypatch):
    """Checks that each epoch shuffles anew, within chunks and among them, and labels stay with their windows."""
    monkeypatch.setattr(chunked, "CHUNK_WINDOWS", 40)
    rows = windows_of([[4] * 100]).record_batch
    labels = np.arange(200, dtype=np.float32).reshape(100, 2)
    rows = rows.append_column("labels", pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), 2))
    windows = Windows(rows.append_column("weights", pa.array(np.ones(100, np.float32))))
    options = OPTIONS | {"rows": 4, "max_segments": 2, "arrays": segment_labels(np.float32, (2,))}
    loader, upper = (make_loader(windows, **options, only=only) for only in (None, np.array([0, 1])))
    assert isinstance(loader, ChunkedLoader)
    epochs = []
    for epoch in range(6):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        batches = [loader.batch(step) for step in steps]
        for step, batch in zip(steps, batches, strict=True):
            is_window = batch.windows >= 0
            assert np.array_equal(batch.arrays["labels"][is_window], labels[batch.windows[is_window]])
            upper_arrays = upper.batch(step).arrays
            assert all(np.array_equal(upper_arrays[name], array[:2]) for name, array in batch.arrays.items())
        epochs.append([window for batch in batches for window in batch.windows[batch.windows >= 0].tolist()])
        assert sorted(epochs[-1]) == list(range(100))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({epoch[0] // 34 for epoch in epochs}) > 1  # the chunk that comes first
    assert max(abs(np.diff(epochs[0][:30]))) < 34  # of one chunk
    fixed = make_loader(windows, **options | {"shuffle": False})
    assert fixed.batch(0).windows[0].tolist() == [0, 1]
