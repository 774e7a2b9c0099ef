"""Chooses the metric that selects weights, and compares its values."""

import math
from collections.abc import Collection

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.tasks.base import Task

OF_LABELS = (
    "precision",
    "recall",
    "f1",
    "support",
    "threshold",
)  # endings of metrics that there are of each label


# Endings of metrics that are the better the smaller they are.
MINIMISED = ("loss", "perplexity", "bits_per_byte", "calibration_error", "mse", "mae")


def selection_metric(config: ConfigDict, task: Task, measured: Collection[str]) -> str:
    """The name of the metric that chooses weights; `UserError` names what was `measured` where it isn't among that."""
    name = task.selection_metric if config.eval.metric == "auto" else config.eval.metric
    if name not in measured:
        raise UserError(
            f"config.eval.metric={name!r} was not measured; measured: {', '.join(sorted(measured))}"
        )
    if len({_minimised(part) for part in name.split("+")}) > 1:
        raise UserError(
            f"config.eval.metric={name!r} adds up what should grow and what should shrink; name metrics of one kind"
        )
    return name


def _minimised(metric: str) -> bool:
    """Whether less of it is better; "f1/loss" is a label's F1, "topic/loss" a task's loss."""
    *before, last = metric.strip().split("/")
    return last.endswith(MINIMISED) and not (before and before[-1].endswith(OF_LABELS))


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` of `metric` beats `best`: losses and the like are minimised, others maximised."""
    sign = -1 if _minimised(metric.partition("+")[0]) else 1
    return math.isfinite(value) and (best is None or sign * value > sign * best)
