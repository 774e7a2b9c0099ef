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
from jaxft.training.loop import train


def arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a checkpoint by path."""
    with ocp.CheckpointManager(
        checkpoint.parent, options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state = manager.restore(int(checkpoint.name), args=args).state
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}


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
        with pytest.raises(Preempted, match="the same command goes on from there"):
            train(config, workdir)
    resumed_summary = train(config, workdir)
    summary = json.loads((undisturbed / "summary.json").read_text())
    for key in {"dev", "test", "best_step", "steps"} & summary.keys():
        assert resumed_summary[key] == summary[key]
    expected, actual = (arrays(run / "checkpoints" / str(summary["steps"])) for run in (undisturbed, workdir))
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name].tobytes() != expected[name].tobytes()] == []
