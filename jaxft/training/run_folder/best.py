"""Keeps the best weights of a run: chooses their metric, tracks the best evaluation, and loads the weights."""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.tasks.base import AnyEvaluator, Log
from jaxft.training.log.tags import is_of_label
from jaxft.training.run_folder.abandoned_work import orbax_quieted
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.identity import refuse_earlier_run

# Endings of metrics for which a smaller value is better.
MINIMISED = ("loss", "perplexity", "bits_per_byte", "calibration_error", "mse", "mae")


def choose_selection_metric(config: Settings, evaluator: AnyEvaluator, measured: Collection[str]) -> str:
    """Returns the name of the metric that chooses the best weights.

    Args:
      config: the run's settings; `config.eval.metric` names the metric, or is "auto" for the evaluator's metric.
      evaluator: the run's evaluator.
      measured: the names of the metrics that an evaluation measures.

    Raises:
      UserError: the metric is not measured, or is a sum of metrics that should grow and metrics that should shrink.
    """
    name = evaluator.selection_metric if config.eval.metric == "auto" else config.eval.metric
    if name not in measured:
        raise UserError(
            f"config.eval.metric={name!r} was not measured; measured: {', '.join(sorted(measured))}"
        )
    if len({_is_minimised(summand) for summand in name.split("+")}) > 1:
        raise UserError(
            f"config.eval.metric={name!r} adds up what should grow and what should shrink; name metrics of one kind"
        )
    return name


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Returns whether `value` of `metric` is better than `best`: losses and `MINIMISED` shrink, others grow."""
    sign = -1 if _is_minimised(metric.partition("+")[0]) else 1
    return math.isfinite(value) and (best is None or sign * value > sign * best)


def _is_minimised(metric: str) -> bool:
    """Returns whether a smaller value is better. "f1/loss" is the F1 of a label, "topic/loss" the loss of a task."""
    return metric.strip().endswith(MINIMISED) and not is_of_label(metric)


class BestTracker:
    """The best weights of a run: keeps them in a folder, and counts the evaluations since.

    Args:
      checkpoints: the folder of the best weights.
      metric: the metric that chooses them.
      patience: the number of evaluations without a better value after which training stops; None for never.
      labels: the labels of the model, which are saved with the weights.
      names: the paths of the parameters to save.
      base: the content hash of the other parameters, if there are any; see `frozen_base`.
      progress: the result of `progress` in the checkpoint from which the run resumes; empty at the start.

    Attributes:
      metric: the metric that chooses them.
      step: the step of the weights in the folder; None before the first.
      worse: the number of evaluations since a better value.
      stopped_early: whether training has stopped for lack of a better value.
      is_replaced: whether the last weights have taken the place of the best, which could not be read.
    """

    def __init__(
        self,
        checkpoints: RunCheckpoints,
        metric: str,
        patience: int | None,
        labels: list[str],
        names: Collection[str],
        base: str | None,
        progress: Mapping[str, Any],
    ):
        self._checkpoints, self.metric, self._patience, self._labels = checkpoints, metric, patience, labels
        self._names, self._base = names, base
        self._value, self.step = progress.get("best"), progress.get("best_step")
        self.worse = progress.get("worse", 0)
        self.stopped_early = progress.get("stopped_early", False)
        self.is_replaced = False

    def keep_if_better(
        self, step: int, parameters: Mapping[str, jax.Array], values: Mapping[str, float]
    ) -> None:
        """Counts an evaluation, and saves its weights if they are the best so far.

        Returns when they are on disk, because a checkpoint of the run must not name missing weights. A failed save, for
        example on a full disk, only warns; the best weights are then still those of before.

        Args:
          step: the step of the evaluation.
          parameters: the weights that were evaluated, by path.
          values: their metrics by name.
        """
        value = values[self.metric]
        if not is_better(self.metric, value, self._value):
            self.worse += 1
            self.stopped_early = bool(self._patience) and self.worse >= self._patience
            return
        self.worse = 0
        self._save(step, parameters, values)
        self._checkpoints.wait()
        if step in self._checkpoints.steps():
            self._value, self.step = value, step

    def replace(self, step: int, parameters: Mapping[str, jax.Array]) -> None:
        """Saves the weights of `step` in place of those in the folder, which cannot be read."""
        self._save(step, parameters, {})
        self._checkpoints.wait()
        self.is_replaced = step != self.step
        self.step = step

    def load(
        self, workdir: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], log: Log
    ) -> dict[str, jax.Array]:
        """Returns the weights in the folder of the run in `workdir`; `step` becomes theirs.

        That is a later step if the run was killed after it had saved them and before a checkpoint named them, went on
        from the checkpoint before, and ended before that step. See `load_best`.
        """
        self.step, parameters = load_best(workdir, abstract, self._labels, log, self._base)
        return parameters

    def is_saved(self) -> bool:
        """Returns whether the weights are in the folder: there may have been no room for them."""
        return self.step in self._checkpoints.steps()

    def _save(self, step: int, parameters: Mapping[str, jax.Array], values: Mapping[str, float]) -> None:
        kept = {name: parameters[name] for name in self._names}
        shapes = {name: list(parameter.shape) for name, parameter in kept.items()}
        meta = {"metrics": dict(values), "labels": self._labels, "shapes": shapes} | name_base(self._base)
        self._checkpoints.save(step, kept, meta)

    def progress(self) -> dict[str, Any]:
        """Returns the values to keep in a checkpoint of the run."""
        progress = {"best": self._value, "best_step": self.step, "worse": self.worse}
        return progress | ({"stopped_early": True} if self.stopped_early else {})


def name_base(digest: str | None) -> dict[str, str]:
    """Returns what a checkpoint says of the base that it leaves out, if it leaves out any."""
    return {} if digest is None else {"base": digest}


def check_base(folder: Path, saved: str | None, loaded: str | None) -> None:
    """Raises `UserError` if a checkpoint belongs to another base; see `frozen_base`.

    Args:
      folder: the folder of the checkpoint.
      saved: the content hash of the base that the checkpoint names, or None if it holds all weights.
      loaded: the content hash of the base that is here, or None if the model needs none.
    """
    if saved == loaded:
        return
    if saved is None or loaded is None:
        content, model = ("all weights", "one with") if saved is None else ("adapters alone", "one without")
        raise UserError(
            f"{folder} holds {content} of its model, and this run's is {model} adapters (config.adapter.method); start "
            "from a run with the same settings of adapters, or take another run's weights as the base, by "
            "config.model.checkpoint=run:WORKDIR"
        )
    raise UserError(
        f"{folder} holds adapters for a base with the content hash {saved[:16]}, and that of config.model.checkpoint "
        f"is {loaded[:16]}; put back the checkpoint, or its revision, that they were trained on"
    )


def load_best(
    workdir: Path,
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    labels: list[str],
    log: Log = print,
    base: str | None = None,
) -> tuple[int, dict[str, jax.Array]]:
    """Loads the best parameters of the run in `workdir`.

    Args:
      workdir: the run's folder, which is left unchanged.
      abstract: the shape and sharding of every parameter by path.
      labels: the labels of the model that receives the parameters.
      log: prints a line, for example about a damaged checkpoint.
      base: the content hash of the parameters that checkpoints leave out, if they leave out any.

    Returns:
      (their step, the parameters by path).

    Raises:
      UserError: there are no weights, they have other shapes or labels, or an earlier jaxft wrote them.
    """
    folder = workdir / "best"

    def check_fit(meta: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        saved = meta.get("base")
        shapes = {name: list(leaf.shape) for name, leaf in abstract.items()}
        differing = sorted(
            name
            for name in shapes.keys() | meta["shapes"].keys()
            if shapes.get(name) != meta["shapes"].get(name)
        )
        if differing and (saved is None) == (base is None):
            name = differing[0]
            raise UserError(
                f"{folder}: parameter {name!r} has shape {meta['shapes'].get(name)} there and "
                f"{shapes.get(name)} in this model ({len(differing)} differ); start from a run of the same "
                "checkpoint, labels and adapters"
            )
        check_base(folder, saved, base)
        if meta["labels"] != labels:
            raise UserError(
                f"{folder}: its labels are {', '.join(meta['labels'])}; this run's are {', '.join(labels)}: the head "
                "would mean something else; start from a run of the same labels"
            )
        return dict(abstract)

    return _restore_best(workdir, check_fit, log)


def read_best(workdir: Path, log: Log = print) -> dict[str, np.ndarray]:
    """Returns the best parameters of the run in `workdir`, of whatever model, by path. They are read to the host.

    Raises:
      UserError: there are no weights, or an earlier jaxft wrote them.
    """
    replicated = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), PartitionSpec())

    def make_abstract(meta: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(tuple(shape), np.float32, sharding=replicated)
            for name, shape in meta["shapes"].items()
        }

    _, parameters = _restore_best(workdir, make_abstract, log)
    return {name: np.asarray(parameters.pop(name)) for name in list(parameters)}


def _restore_best(
    workdir: Path, abstract: Callable[[Mapping[str, Any]], dict[str, jax.ShapeDtypeStruct]], log: Log
) -> tuple[int, dict[str, jax.Array]]:
    """Returns the step of the best parameters of a run and the parameters.

    Args:
      workdir: the run's folder.
      abstract: called with the metadata of the weights; returns the shapes and shardings to restore them into.
      log: prints a line.

    Raises:
      UserError: there are no weights, `abstract` raises it, or an earlier jaxft wrote them.
    """
    folder = workdir / "best"
    if not folder.is_dir() and (workdir / "adapter_config.json").is_file():
        raise UserError(
            f"{workdir}: expected the folder of a run, found an adapter in PEFT's files; give it as "
            "config.adapter.init_from"
        )
    if not folder.is_dir():
        raise UserError(
            f"{workdir} has no weights: there is no folder {folder}; start the command of its training again"
        )
    refuse_earlier_run(workdir)
    with orbax_quieted():
        checkpoints = RunCheckpoints(folder, keep=None, log=log, read_only=True)
        restored = checkpoints.restore(abstract)
        checkpoints.close()
    if restored is None:
        raise UserError(f"{folder} holds no complete checkpoint; start the command of its training again")
    step, parameters, _ = restored
    return step, parameters
