"""Joins the metric states of several tasks, and averages their metrics."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MultiTaskState:
    """The metric states of several tasks.

    Attributes:
      by_task: the state of each task.
      weights: the weight of each task's loss.
      averaged_metric: names of metrics, joined by "+", whose mean is also a metric; see `average_metrics`.
    """

    by_task: dict[str, Any]
    weights: dict[str, float]
    averaged_metric: str

    def compute(self) -> dict[str, float]:
        """Returns each task's metrics as TASK/METRIC, the weighted sum of the losses, and the averaged metric."""
        metrics = {name: state.compute() for name, state in self.by_task.items()}
        values = {
            f"{name}/{key}": value
            for name, task_metrics in metrics.items()
            for key, value in task_metrics.items()
        }
        losses = [
            self.weights[name] * task_metrics["loss"]
            for name, task_metrics in metrics.items()
            if "loss" in task_metrics
        ]
        if losses:
            values["loss"] = sum(losses)
        return values | average_metrics(self.averaged_metric, values)


def average_metrics(joined_names: str, values: Mapping[str, float]) -> dict[str, float]:
    """Returns {joined_names: mean of the metrics whose names `joined_names` joins by "+"}.

    Returns {} if one of the metrics is missing, or if `joined_names` is already a metric.
    """
    names = [name.strip() for name in joined_names.split("+")]
    if joined_names in values or not all(name in values for name in names):
        return {}
    return {joined_names: sum(values[name] for name in names) / len(names)}
