"""A step has the rows that hold about as many windows as are asked for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching.batch import INPUTS
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.mixed import Mix
from jaxft.data.batching.step_rows import choose_step_rows, sample_windows, windows_per_row
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError


def windows_of(lengths, data_set=None) -> Windows:
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(offsets[-1], np.int32)))
    data_set = pa.array(np.zeros(len(lengths), np.int32) if data_set is None else data_set)
    return Windows(pa.RecordBatch.from_pydict({"input_ids": ids, "data_set": data_set}))


def gather(values):
    return [value for _, value in sorted(values.items())]


LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=300)


@settings(max_examples=60)
@given(
    LENGTHS,
    st.integers(1, 12),
    st.integers(1, 100),
    st.sampled_from([128, 256, 512]),
    st.sampled_from([None, 8]),
)
def test_the_mean_is_that_of_the_rows_that_are_packed(lengths, unit, wish, max_length, max_segments):
    windows = windows_of(lengths)
    samples = sample_windows({0: windows}, 1, gather, Mix())
    rows = choose_step_rows(samples, wish, unit, max_length, max_segments)
    options = {"rows": rows, "max_length": max_length, "max_segments": max_segments}
    plan = make_loader(windows, arrays=INPUTS, **options).plan
    packed_rows = len(plan.rows.offsets) - 1
    assert windows_per_row(samples, **options) == pytest.approx(len(lengths) / packed_rows)
    assert rows >= 1 and rows % unit == 0
    # The nearest multiple, for the rows as they are packed for a step of one unit or of this size.
    per_row = [windows_per_row(samples, n, max_length, max_segments) for n in (unit, rows)]
    assert rows == unit or (rows - unit / 2) * min(per_row) - 1e-6 <= wish * max(per_row) / min(per_row)
    assert (rows + unit / 2) * max(per_row) + 1e-6 >= wish * min(per_row) / max(per_row)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 50))
def test_without_blocks_no_other_multiple_is_nearer(lengths, unit, wish):
    samples = sample_windows({0: windows_of([1 + length // 6 for length in lengths])}, 1, gather, Mix())
    rows = choose_step_rows(samples, wish, unit, 32, None)
    misses = {n: abs(n * windows_per_row(samples, n, 32, None) - wish) for n in range(unit, 60, unit)}
    assert misses[rows] == pytest.approx(min(misses.values()))


@pytest.mark.parametrize(
    "mix", [Mix("size", by_task=True), Mix("temperature", 5.0), Mix("weights", 1.0, (1.0, 4.0))]
)
def test_data_sets_in_proportions_are_counted_as_they_are_drawn(mix):
    lengths = np.array([3] * 400 + [30] * 100)
    windows = windows_of(lengths, np.repeat([0, 1], [400, 100]).astype(np.int32))
    samples = sample_windows({0: windows}, 1, gather, mix)
    loader = make_loader(windows, rows=2, max_length=32, mix=mix, arrays=INPUTS)
    drawn = [(loader.batch(step).windows >= 0).sum() for step in range(5 * loader.steps_per_epoch)]
    assert windows_per_row(samples, 2, 32, None) == pytest.approx(np.mean(drawn) / 2, rel=0.05)
    with pytest.raises(UserError, match="has 3 numbers for 2 data sets"):
        sample_windows({0: windows}, 1, gather, Mix("weights", 1.0, (1.0, 2.0, 3.0)))


def test_shards_are_sampled_alike_wherever_they_are():
    shards = {n: windows_of(np.random.default_rng(n).integers(1, 64, 50 * (n + 1))) for n in range(3)}
    [pooled] = sample_windows(shards, 3, gather, Mix())
    answers = {n: [int(length) for length in shard.lengths] for n, shard in shards.items()}
    [elsewhere] = sample_windows({1: shards[1]}, 3, lambda values: gather(answers | values), Mix())
    assert (pooled.lengths == elsewhere.lengths).all() and len(pooled.lengths) == 300
