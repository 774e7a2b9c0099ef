"""The rows of a step follow from examples, devices, microbatches and shards, stay on resume, and doubts are printed."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from jaxft.data.batching.batch import BatchSpec
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.layers.parameters import Kind, Role
from jaxft.training.batch_rows import (
    LARGE_STEP,
    check_batch,
    choose_eval_rows,
    choose_microbatches,
    choose_step_size,
    rows_begun_with,
    rows_unit,
    warn_of_few_steps,
    warn_of_other_size,
    with_rows,
)
from jaxft.training.settings import settings_from_config
from tests.training.test_step import network

RUN = Path("runs/x")


def devices(data, fsdp=1, tensor=1):
    return SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tensor": tensor})


def config(task="token_classification", **batch):
    values = {f"batch.{key}": value for key, value in batch.items()}
    return settings_from_config({"task": task, "data.max_length": 64} | values)


def windows(count, length=16):
    """Returns windows of which 64 / length fill a row."""
    offsets = np.arange(count + 1) * length
    ids = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(offsets[-1], np.int32)))
    return {0: Windows(pa.RecordBatch.from_pydict({"input_ids": ids}))}


def size(settings, mesh, count=1000, meta=None, max_segments=None):
    rows = rows_begun_with(settings, mesh, meta, RUN)
    return choose_step_size(settings, mesh, windows(count), BatchSpec({}, max_segments), rows)


@pytest.mark.parametrize(
    "settings, mesh, rows, examples",
    [
        (config(), devices(1), 8, 32),  # the default of most tasks
        (config("causal_lm"), devices(1), 2, 8),
        (config(examples=50), devices(1), 13, 52),
        (config(examples=1), devices(1), 1, 4),
        (config(), devices(2, 2, 2), 8, 32),
        (config(), devices(3), 9, 36),
        (config(accumulate=4), devices(4), 16, 64),
        (config(rows=6), devices(2), 6, 24),
    ],
)
def test_rows_hold_the_examples_that_are_asked_for(settings, mesh, rows, examples):
    result = size(settings, mesh)
    assert (result.rows, result.examples) == (rows, examples) and rows % rows_unit(settings, mesh) == 0
    resolved = with_rows(settings, result)
    assert (resolved.batch.rows, resolved.batch.examples) == (rows, None)


def test_rows_of_one_window_and_small_data():
    unpacked = settings_from_config({"task": "token_classification", "data.pack": False})
    assert size(unpacked, devices(5))[:3] == (30, 32, 30.0)
    assert size(config(), devices(1), count=10)[:2] == (3, 10)  # no more rows than there is data for
    assert size(config(), devices(1), max_segments=2)[:3] == (16, 32, 32.0)


def test_a_run_that_goes_on_keeps_its_rows_on_another_mesh_or_is_refused():
    meta = {"identity": {"settings": {"batch.rows": 8}}}
    assert size(config(), devices(3)).rows == 9
    assert size(config(), devices(2), meta=meta).rows == 8
    with pytest.raises(
        UserError, match="runs/x: the run began with 8 rows a step, which 3 .* does not divide"
    ):
        size(config(), devices(3), meta=meta)
    assert size(config(rows=6), devices(3), meta=meta).rows == 6  # `check_identity` says that they changed
    with pytest.raises(UserError, match="rows / accumulate=6: rows go over 4 devices"):
        check_batch(config(rows=6), devices(4))
    check_batch(config(), devices(4))
    with pytest.raises(UserError, match="config.eval.rows=6: rows go over 4 devices"):
        check_batch(evaluated(rows=6), devices(4))
    with pytest.raises(
        UserError, match=r"accumulate=4096 x 512 devices and .*: a step would have 2,097,152 rows"
    ):
        rows_unit(config(accumulate=4096), devices(512))


def evaluated(length=64, rows=None):
    return settings_from_config(
        {"task": "token_classification", "data.max_length": length, "eval.rows": rows}
    )


def test_batches_of_long_rows_that_are_measured_have_fewer_rows():
    lengths = (64, 1024, 2048, 8192, 2**16)
    assert [choose_eval_rows(evaluated(length), BatchSpec({}), 1) for length in lengths] == [32, 32, 16, 4, 1]
    assert choose_eval_rows(evaluated(8192), BatchSpec({}), 8) == 8
    assert choose_eval_rows(evaluated(8192, rows=6), BatchSpec({}), 1) == 6
    assert choose_eval_rows(evaluated(8192), BatchSpec({}, row_length=1), 1) == 32


def test_a_step_of_another_size_is_a_warning_with_both_numbers():
    def warn(settings, mesh, **options):
        return warn_of_other_size(settings, size(settings, mesh, **options))

    assert (
        warn(config(), devices(1)) is warn(config(), devices(10)) is warn(config(rows=1), devices(1)) is None
    )
    assert warn(config(), devices(1), count=5) is None
    assert warn(config(), devices(16)) == (
        "warning: config.batch.examples=32 (the default) was asked for, but 16 rows, the nearest number, hold 64.0 on "
        "average; 16 (microbatches x devices, and data shards) must divide the rows: have fewer of them, or set "
        "config.batch.examples=64"
    )
    assert "lower config.data.max_length for rows of fewer examples" in warn(config(examples=1), devices(1))


def test_few_steps_are_a_warning_that_says_what_to_set():
    def warn(settings, count, total, steps_per_epoch):
        return warn_of_few_steps(
            settings, size(settings, devices(1), count), total=total, steps_per_epoch=steps_per_epoch
        )

    assert warn(config(), 1000, 100, 32) is None
    message = warn(config(), 200, 21, 7)
    assert message == (
        "warning: 21 steps in all and 7 an epoch; with fewer than 100 in a run or 20 an epoch a model may hardly "
        "learn. Set config.batch.examples=10 for smaller steps or config.train.epochs=15 for more of them"
    )
    assert "Set config.batch.examples=10 for smaller steps" in warn(config(), 200, 210, 7)
    assert "Set config.train.epochs=4" in warn(config(), 1000, 30, 30)
    steps = settings_from_config({"task": "token_classification", "train.steps": 30})
    assert "Set config.train.steps=100" in warn(steps, 1000, 30, 30)
    assert "a smaller config.data.max_length" in warn(config(rows=1), 20, 500, 5)


def test_one_cpu_computes_large_steps_in_two_parts():
    net, rows = network(), LARGE_STEP // 64
    assert choose_microbatches(config(), net, rows, 64) == 2
    assert choose_microbatches(config(), net, rows - 2, 64) == 1
    assert choose_microbatches(config(), net, rows + 1, 64) == 1  # of no equal parts
    assert choose_microbatches(config(accumulate=4), net, rows, 64) == 4
    gpu = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]))
    two = SimpleNamespace(devices=np.repeat(net.mesh.devices, 2))
    for mesh in (gpu, two):
        assert choose_microbatches(config(), dataclasses.replace(net, mesh=mesh), rows, 64) == 1
    statistic = {"backbone/norm/running_mean": Role(Kind.STATISTIC)}
    with_statistics = SimpleNamespace(
        mesh=net.mesh, roles=net.roles | statistic, model_config=net.model_config
    )
    assert choose_microbatches(config(), with_statistics, rows, 64) == 1
