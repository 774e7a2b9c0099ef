"""Adds metrics of the user's own to those that a task's evaluator measures."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from jaxft.errors import UserError
from jaxft.io.files import read_json, write_json
from jaxft.tasks.base import AnyEvaluator, AnySplit, MetricState

# Name -> the function that computes the metric of what the evaluator has measured, such as an `EntityState`.
CustomMetrics: TypeAlias = Mapping[str, Callable[[Any], float]]


@dataclasses.dataclass(frozen=True)
class ExtendedState:
    """Holds what an evaluation has measured, with metrics of the user's own."""

    state: MetricState
    functions: CustomMetrics

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name, and the user's."""
        return self.state.compute() | self.compute_added()

    def compute_added(self) -> dict[str, float]:
        """Returns the metrics of the user. Raises `UserError` if a function returns no number."""
        values = {name: function(self.state) for name, function in self.functions.items()}
        for name, value in values.items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                raise UserError(
                    f"metrics[{name!r}] returned {value!r}; expected a number for the state {type(self.state).__name__}"
                ) from None
        return values


class ExtendedEvaluator:
    """An evaluator that measures the user's metrics too, and is another evaluator in all else."""

    def __init__(self, evaluator: AnyEvaluator, functions: CustomMetrics):
        self._evaluator, self._functions = evaluator, functions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def measure(self, split: AnySplit, predictions: Any, *sums: float, **named_sums: float) -> ExtendedState:
        """Returns the metric state of predictions; see `Evaluator.measure`."""
        state = self._evaluator.measure(split, predictions, *sums, **named_sums)
        return ExtendedState(state, self._functions)

    def metric_names(self, split: AnySplit) -> list[str]:
        """Returns the names of all metrics. Raises `UserError` if one of the user's is the task's."""
        names = self._evaluator.metric_names(split)
        if repeated := self._functions.keys() & set(names):
            raise UserError(f"metrics[{min(repeated)!r}]: the task has a metric of this name; choose another")
        return [*names, *self._functions]

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""
        added = (f"{name} {values[name]:.4f}" for name in self._functions if name in values)
        return ", ".join((self._evaluator.summarize(values), *added))

    def write_evaluation(
        self, folder: Path, split: AnySplit, state: ExtendedState, predictions: Any, **options: Any
    ) -> dict[str, float]:
        """Writes the files of an evaluation, with all metrics in eval/NAME.json, and returns these."""
        metrics = self._evaluator.write_evaluation(folder, split, state.state, predictions, **options)
        added, path = state.compute_added(), folder / "eval" / f"{split.name}.json"
        record = read_json(path)
        write_json(path, record | {"metrics": record["metrics"] | added})
        return metrics | added
