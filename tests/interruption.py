"""Checks that a run that is stopped in the middle, and started again, ends as if it had not been stopped."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxft.data.batching.loader import Loader
from jaxft.errors import Preempted
from jaxft.parallel.preemption import StopRequest
from jaxft.training.loop import train

TIMING = {"real_tokens_per_s", "input_stall_fraction", "mfu"}


def arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a checkpoint by path, read without the code under test."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was saved
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(checkpoint / "state").item_metadata
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved
        )
        state = reader.restore(checkpoint / "state", shapes)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}


def newest(folder: pathlib.Path) -> pathlib.Path:
    """Returns the newest of a folder's checkpoints."""
    return max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def assert_same_arrays(expected: pathlib.Path, actual: pathlib.Path) -> None:
    """Checks that two checkpoints hold the same arrays, to the bit."""
    a, b = arrays(expected), arrays(actual)
    assert a.keys() == b.keys()
    assert [k for k in a if a[k].dtype != b[k].dtype or a[k].tobytes() != b[k].tobytes()] == []


def assert_same_run(expected: pathlib.Path, actual: pathlib.Path) -> None:
    """Checks that parameters, optimizer state, best weights, measured numbers and reports agree, to the bit."""
    for name in ("checkpoints", "best"):
        assert newest(expected / name).name == newest(actual / name).name
        assert_same_arrays(newest(expected / name), newest(actual / name))

    def rows(run):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]

    assert rows(expected) == rows(actual)
    reports = [path for name in ("eval", "predictions", "errors") for path in (expected / name).iterdir()]
    for report in reports:
        assert report.read_bytes() == (actual / report.relative_to(expected)).read_bytes()
    summaries = [json.loads((run / "summary.json").read_text()) for run in (expected, actual)]
    for key in {"steps", "best_step", "padding_fraction", "dev", "test"} & summaries[0].keys():
        assert summaries[0][key] == summaries[1][key]


def assert_a_stopped_run_ends_bit_identically(config, undisturbed, workdir, monkeypatch, *, at: int) -> None:
    """Checks that a run stopped by SIGTERM in step `at` and started again ends as the one in `undisturbed`.

    Args:
      config: the settings of both runs.
      undisturbed: the folder of a finished run.
      workdir: a new folder.
      monkeypatch: pytest's.
      at: the step.
    """
    original = Loader.batch

    def stopping(self, number):
        if number == at and self.seed is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "batch", stopping)
        with (
            StopRequest() as stop_request,
            pytest.raises(Preempted, match="the same command goes on from there"),
        ):
            train(config, workdir, should_stop=stop_request.is_stopping)
    resumed_summary = train(config, workdir)
    summary = json.loads((undisturbed / "summary.json").read_text())
    for key in {"dev", "test", "best_step", "steps"} & summary.keys():
        assert resumed_summary[key] == summary[key]
    assert_same_arrays(*(run / "checkpoints" / str(summary["steps"]) for run in (undisturbed, workdir)))
