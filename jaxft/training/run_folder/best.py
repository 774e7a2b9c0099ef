"""Keeps the best weights of a run: chooses their metric, tracks the best evaluation, and loads the weights."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.tasks.base import Log, Task
from jaxft.training.log.tags import is_of_label
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.identity import refuse_earlier_run

# Endings of metrics for which a smaller value is better.
MINIMISED = ("loss", "perplexity", "bits_per_byte", "calibration_error", "mse", "mae")


def choose_selection_metric(config: Settings, task: Task, measured: Collection[str]) -> str:
    """Returns the name of the metric that chooses the best weights.

    Args:
      config: the run's settings; `config.eval.metric` names the metric, or is "auto" for the task's metric.
      task: the run's task.
      measured: the names of the metrics that an evaluation measures.

    Raises:
      UserError: the metric is not measured, or is a sum of metrics that should grow and metrics that should shrink.
    """
    name = task.selection_metric if config.eval.metric == "auto" else config.eval.metric
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
    """The best evaluation of a run so far, and the number of evaluations since.

    Args:
      metric: the metric that chooses the best weights.
      patience: the number of evaluations without a better value after which training stops; None for never.
      progress: the result of `progress` in the checkpoint from which the run resumes; empty at the start.

    Attributes:
      best: the best value whose weights are saved; None before the first.
      best_step: the step of these weights; None before the first.
      worse: the number of evaluations since a better value.
      stopped_early: whether training has stopped for lack of a better value.
    """

    def __init__(self, metric: str, patience: int | None, progress: Mapping[str, Any]):
        self.metric, self.patience = metric, patience
        self.best, self.best_step = progress.get("best"), progress.get("best_step")
        self.worse = progress.get("worse", 0)
        self.stopped_early = progress.get("stopped_early", False)

    def update(self, value: float) -> bool:
        """Counts an evaluation whose metric is `value`, and returns whether that is better than the best."""
        better = is_better(self.metric, value, self.best)
        self.worse = 0 if better else self.worse + 1
        if self.patience and self.worse >= self.patience:
            self.stopped_early = True
        return better

    def record(self, value: float, step: int) -> None:
        """Records that the weights of `step`, whose metric is `value`, are saved as the best."""
        self.best, self.best_step = value, step

    def progress(self) -> dict[str, Any]:
        """Returns the values to keep in a checkpoint of the run."""
        progress = {"best": self.best, "best_step": self.best_step, "worse": self.worse}
        return progress | ({"stopped_early": True} if self.stopped_early else {})


def make_best_meta(
    parameters: Mapping[str, Any], labels: list[str], values: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the plain values to save with the best parameters: metrics, labels and shapes."""
    shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
    return {"metrics": dict(values), "labels": labels, "shapes": shapes}


def load_best(
    workdir: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], labels: list[str], log: Log = print
) -> dict[str, jax.Array]:
    """Loads the best parameters of the run in `workdir`.

    Args:
      workdir: the run's folder, which is left unchanged.
      abstract: the shape and sharding of every parameter by path.
      labels: the labels of the model that receives the parameters.
      log: prints a line, for example about a damaged checkpoint.

    Returns:
      The parameters by path.

    Raises:
      UserError: there are no weights, they have other shapes or labels, or an earlier jaxft wrote them.
    """
    folder = workdir / "best"
    if not folder.is_dir():
        raise UserError(
            f"{workdir} has no weights: there is no folder {folder}; is it a run that was evaluated?"
        )
    refuse_earlier_run(workdir)
    checkpoints = RunCheckpoints(folder, keep=None, log=log, read_only=True)

    def check_fit(meta: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {name: list(leaf.shape) for name, leaf in abstract.items()}
        differing = sorted(
            name
            for name in shapes.keys() | meta["shapes"].keys()
            if shapes.get(name) != meta["shapes"].get(name)
        )
        if differing:
            name = differing[0]
            raise UserError(
                f"{folder}: parameter {name!r} has shape {meta['shapes'].get(name)} there and "
                f"{shapes.get(name)} in this model ({len(differing)} differ); start from a run of the same "
                "checkpoint and labels"
            )
        if meta["labels"] != labels:
            raise UserError(
                f"{folder}: its labels are {', '.join(meta['labels'])}; this run's are {', '.join(labels)}: the head "
                "would mean something else; start from a run of the same labels"
            )
        return dict(abstract)

    restored = checkpoints.restore(check_fit)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{folder} holds no complete checkpoint; let the run reach its first evaluation")
    _, parameters, _ = restored
    return parameters
