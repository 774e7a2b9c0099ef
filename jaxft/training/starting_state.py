"""Provides the state from which a run goes on: that of its newest undamaged checkpoint, or a first one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config.adapter import OF_FUNCTION
from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.io.files import read_json
from jaxft.tasks.base import Log
from jaxft.training.log.waits import announced
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import PreparedRun
from jaxft.training.run_folder.best import check_base, load_best
from jaxft.training.run_folder.checkpoint import Meta, RunCheckpoints
from jaxft.training.run_folder.frozen_base import (
    FrozenBase,
    assert_same_weights,
    load_base,
    select_base,
)
from jaxft.training.run_folder.identity import check_identity, describe_changed_versions
from jaxft.training.run_folder.remote_folder import fetch_run
from jaxft.training.run_folder.workdir import save_model_files
from jaxft.training.settings import settings_from_config
from jaxft.training.train_state import SavedState, TrainState


def restore_state(
    run: PreparedRun, checkpoints: RunCheckpoints, identity: Mapping[str, Any], workdir: Path, log: Log
) -> tuple[int, TrainState, dict[str, Any], FrozenBase] | None:
    """Restores the newest undamaged checkpoint, on whatever mesh it was saved.

    Args:
      run: the prepared run.
      checkpoints: the run's checkpoints.
      identity: the result of `make_identity` for this run, which the checkpoint's must equal.
      workdir: the run's folder.
      log: prints a line.

    Returns:
      (step, state, progress, base), or None if there is no checkpoint. `progress` is what the loop kept in the
      checkpoint besides the state, and `base` what the checkpoint lacks of it.

    Raises:
      UserError: the checkpoint is another run's or belongs to another base, or all are damaged.
    """

    def check_fit(meta: Meta) -> SavedState:
        check_identity(meta, identity, workdir)
        return run.trainer.saved

    with announced(f"looking for a checkpoint in {checkpoints.folder}", log):
        restored = checkpoints.restore(check_fit)
    if restored is None:
        return None
    step, state, meta = restored
    base = load_base(run.net, run.config, run.data.base_model, log)
    check_base(checkpoints.folder, meta.get("base"), base.digest)
    log(f"going on at step {step:,} of {run.total:,}, from {checkpoints.folder / str(step)}")
    if step == run.total and (workdir / "summary.json").exists():
        log("the run is finished: its best weights are only measured again")
    if warning := describe_changed_versions(meta):
        log(warning)
    state = state._replace(frozen=state.frozen | base.parameters)
    return step, run.trainer.form.from_saved(state), meta["progress"], base


def _check_same_adapters(config: Settings, folder: Path) -> None:
    """Raises `UserError` if the adapters of the run in `folder`, whose values this one takes, compute otherwise."""
    path = folder / "config.json"
    if not config.adapter.is_used or not path.is_file():
        return
    ours, theirs = config.adapter, settings_from_config(read_json(path), str(path)).adapter
    for name in OF_FUNCTION if theirs.is_used else ():
        if getattr(ours, name) != getattr(theirs, name):
            raise UserError(
                f"config.adapter.{name}={getattr(ours, name)!r}: the adapters of config.init_from={config.init_from} "
                f"have {getattr(theirs, name)!r}; set the same, or begin without config.init_from"
            )


def make_first_state(run: PreparedRun, workdir: Path, log: Log) -> tuple[TrainState, FrozenBase]:
    """Loads or makes the first weights and the optimizer's state, and writes the model files of the run.

    Args:
      run: the prepared run.
      workdir: the run's folder.
      log: prints a line.

    Raises:
      UserError: the weights are unusable.
    """
    config, net, base_model = run.config, run.net, run.data.base_model
    if config.init_from:
        with announced(f"loading the weights of {config.init_from}", log):
            base = load_base(net, config, base_model, log)
            folder = fetch_run(Path(config.init_from))
            _check_same_adapters(config, folder)
            _, parameters = load_best(folder, net.kept, net.task.labels, log, base.digest)
            parameters |= base.parameters
        log(f"weights: {config.init_from}")
    else:
        assert_same_weights(config, base_model)
        with announced("loading and making the first weights", log):
            parameters, line = initial_parameters(net, config, base_model)
        base = select_base(net, parameters, log)
        parameters |= base.parameters
        log(line)
    with announced("making the optimizer's state", log):
        state = run.trainer.new_state(parameters)
    save_model_files(workdir, base_model, net.task.labels)
    return state, base
