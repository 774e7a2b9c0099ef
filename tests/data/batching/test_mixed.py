"""Mixed data sets: each goes through whole passes at its own pace, in the proportions that were asked for."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching import mixed
from jaxft.data.batching.batch import INPUTS, segment_labels
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.mixed import Mix, MixedLoader, make_loader
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError


def windows_of(lengths: list[list[int]]) -> Windows:
    """Windows of several data sets, whose tokens tell which window they are of."""
    flat = np.array([length for own in lengths for length in own])
    offsets = np.concatenate(([0], np.cumsum(flat)))
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(
            offsets, pa.array(np.repeat(np.arange(len(flat)), flat).astype(np.int32))
        ),
        "sentence": pa.array(np.arange(len(flat), dtype=np.int32)),
        "data_set": pa.array(np.repeat(np.arange(len(lengths)), list(map(len, lengths))).astype(np.int32)),
    }
    return Windows(pa.RecordBatch.from_pydict(columns))


OPTIONS = {"max_length": 16, "pad_id": 0, "seed": 3, "shuffle": True, "arrays": INPUTS}
SETS = st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=40), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    SETS, st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from(["size", "temperature", "weights"])
)
def test_every_data_set_goes_through_whole_passes(lengths, rows, by_task, pack, kind):
    weights = tuple(float(index + 1) for index in range(len(lengths))) if kind == "weights" else ()
    windows, mix = windows_of(lengths), Mix(kind, 5.0, weights, by_task)
    options = OPTIONS | {"rows": rows, "segments": 4, "pack": pack}
    try:
        found = MixedLoader(windows, mix, **options)
    except UserError as error:
        assert "an epoch has" in str(error)
        return
    assert [shape[:2] for shape in found.shapes] == [(rows, 16)]
    data_set, seen = windows.column("data_set"), [[] for _ in lengths]
    steps = 3 * found.steps_per_epoch
    for step in range(steps):
        batch = found.batch(step)
        own = [data_set[row[row >= 0]] for row in batch.windows]
        assert all(len(set(row)) == 1 for row in own)  # a row is of one, and none is empty
        if by_task:
            assert len({int(row[0]) for row in own}) == 1
        for row in batch.windows:
            for window in row[row >= 0]:
                seen[data_set[window]].append(int(window))
        for row, start, ids in zip(batch.windows, batch.starts, batch.arrays["input_ids"], strict=True):
            for window, first in zip(row[row >= 0], start, strict=False):
                size = windows.lengths[window]
                assert (ids[first : first + size] == window).all()
    for index, own in enumerate(seen):
        counts = Counter(own)
        # In the middle of a pass a window may be one ahead of another.
        assert max(counts.values()) - min(counts[w] for w in np.flatnonzero(data_set == index)) <= 1
    again = MixedLoader(windows, mix, **options)
    last = again.batch(steps - 1)
    assert (last.windows == found.batch(steps - 1).windows).all()


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
    """Whatever their lengths: 900 short ones, of which a row holds four, and 100 that fill a row."""
    windows = windows_of([[4] * 900, [16] * 100])
    found = make_loader(windows, mix, rows=4, **OPTIONS)
    counts = np.zeros(2)
    for step in range(found.steps_per_epoch):
        drawn = found.batch(step).windows
        counts += np.bincount(windows.column("data_set")[drawn[drawn >= 0]], minlength=2)
    assert counts[0] / counts.sum() == pytest.approx(share, abs=0.03)
    assert found.padding_fraction == pytest.approx(0)


def test_only_training_is_mixed():
    windows = windows_of([[4] * 9, [16] * 5])
    assert (
        type(make_loader(windows, Mix("temperature", 2.0), rows=2, **OPTIONS | {"shuffle": False})) is Loader
    )
    assert type(make_loader(windows, Mix(), rows=2, **OPTIONS)) is Loader


def test_many_windows_come_in_chunks(monkeypatch):
    """Shuffled anew each epoch, within chunks and among them; labels stay with their windows, whoever builds them."""
    monkeypatch.setattr(mixed, "CHUNK", 40)
    rows = windows_of([[4] * 100]).record_batch
    labels = np.arange(200, dtype=np.float32).reshape(100, 2)
    rows = rows.append_column("labels", pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), 2))
    windows = Windows(rows.append_column("weights", pa.array(np.ones(100, np.float32))))
    options = OPTIONS | {"rows": 4, "segments": 2, "arrays": segment_labels(np.float32, (2,))}
    found, upper = (make_loader(windows, Mix(), **options, only=only) for only in (None, np.array([0, 1])))
    assert type(found) is ChunkedLoader
    epochs = []
    for epoch in range(6):
        steps = range(epoch * found.steps_per_epoch, (epoch + 1) * found.steps_per_epoch)
        batches = [found.batch(step) for step in steps]
        for step, batch in zip(steps, batches, strict=True):
            there = batch.windows >= 0
            assert np.array_equal(batch.arrays["labels"][there], labels[batch.windows[there]])
            part = upper.batch(step).arrays
            assert all(np.array_equal(part[name], array[:2]) for name, array in batch.arrays.items())
        epochs.append([window for batch in batches for window in batch.windows[batch.windows >= 0].tolist()])
        assert sorted(epochs[-1]) == list(range(100))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({epoch[0] // 34 for epoch in epochs}) > 1  # the chunk that comes first
    assert max(abs(np.diff(epochs[0][:30]))) < 34  # of one chunk
    still = make_loader(windows, Mix(), **options | {"shuffle": False})
    assert still.batch(0).windows[0].tolist() == [0, 1]
