"""A run that is told to stop in the middle, and the same command again: it must end as if nothing had been."""

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
from jaxft.training.run import train


def arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by path."""
    with ocp.CheckpointManager(
        checkpoint.parent, options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state = manager.restore(int(checkpoint.name), args=args).state
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}


def assert_a_stopped_run_ends_bit_identically(config, whole, workdir, monkeypatch, *, at: int) -> None:
    """`config`'s run in `workdir`, stopped by SIGTERM in step `at` and started again, ends as the one in `whole`."""
    original = Loader.batch

    def stopping(self, number):
        if number == at and self._shuffle:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "batch", stopping)
        with pytest.raises(Preempted, match="the same command goes on from there"):
            train(config, workdir)
    again, summary = train(config, workdir), json.loads((whole / "summary.json").read_text())
    for key in {"dev", "test", "best_step", "steps"} & summary.keys():
        assert again[key] == summary[key]
    one, other = (arrays(run / "checkpoints" / str(summary["steps"])) for run in (whole, workdir))
    assert one.keys() == other.keys()
    assert [k for k in one if one[k].tobytes() != other[k].tobytes()] == []
