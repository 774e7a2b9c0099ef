"""Collects the predictions of several tasks, measures them, and writes the files of an evaluation."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from rich.console import Console

from jaxft.data.encoding.shared_texts import MultiText
from jaxft.data.encoding.windows import Windows
from jaxft.io.files import write_json
from jaxft.tasks.base import AnyEvaluator, Evaluator, Json, Outputs, Split
from jaxft.tasks.multi_task.data import divide_by_task
from jaxft.tasks.multi_task.encoding import make_task_data
from jaxft.tasks.multi_task.metrics import MultiTaskState, average_metrics
from jaxft.tasks.multi_task.names import select_examples, select_labels, select_with_prefix
from jaxft.tasks.multi_task.settings import Settings, make_task_configs, read_loss_weights
from jaxft.tasks.registry import make_evaluator

SeenItem: TypeAlias = tuple[str, Json]  # a task's name, and an item that it counts as seen in training


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of each task for a split. Iterates over {task: prediction} for each text.

    Attributes:
      tasks: the names of the tasks that read each text.
      by_task: the predictions of each task.
      losses: each task's loss as (sum, weight).
    """

    tasks: list[tuple[str, ...]]
    by_task: dict[str, Any]
    losses: dict[str, tuple[float, float]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        remaining = {name: iter(predictions) for name, predictions in self.by_task.items()}
        return ({name: next(remaining[name]) for name in names} for names in self.tasks)


class MultiTaskEvaluator(Evaluator[MultiText, Windows, Predictions, MultiTaskState]):
    """Evaluates each task by its evaluator."""

    def __init__(self, labels: Sequence[str], config: Settings):
        self._evaluators: dict[str, AnyEvaluator] = {
            name: make_evaluator(select_labels(labels, name), task_config)
            for name, task_config in make_task_configs(config).items()
        }
        reads_words = {name: data.reads_words for name, data in make_task_data(config).items()}
        if any(reads_words.values()):  # texts that are read as words are not shortened
            for name, evaluator in self._evaluators.items():
                if not reads_words[name]:
                    evaluator.method = (
                        f"texts whole where they are read as words; of others {evaluator.method}"
                    )
        self._weights = read_loss_weights(config)
        self.compares_with_train = any(
            evaluator.compares_with_train for evaluator in self._evaluators.values()
        )
        self.selection_metric = "+".join(
            f"{name}/{evaluator.selection_metric}" for name, evaluator in self._evaluators.items()
        )
        self._averaged_metric = self.selection_metric if config.eval.metric == "auto" else config.eval.metric

    @property
    def tuned(self) -> dict[str, Json]:
        """The tuned values by task, for tasks that tuned any."""
        return {name: evaluator.tuned for name, evaluator in self._evaluators.items() if evaluator.tuned}

    @tuned.setter
    def tuned(self, values: Mapping[str, Any]) -> None:
        """Sets the tuned values of each task."""
        for name, evaluator in self._evaluators.items():
            evaluator.tuned = values.get(name, {})

    def collect(self, split: Split[MultiText, Windows], outputs: Outputs) -> Predictions:
        """Returns the predictions of each task that has examples in a split."""
        batches = [(batch._replace(arrays={}), arrays) for batch, arrays in outputs]
        by_task, losses = {}, {}
        for name, (task_split, number) in divide_by_task(split, self._evaluators).items():
            task_outputs = (
                (
                    batch._replace(windows=np.where(batch.windows >= 0, number[batch.windows], -1)),
                    select_with_prefix(arrays, name),
                )
                for batch, arrays in batches
            )
            by_task[name] = self._evaluators[name].collect(task_split, task_outputs)
            batch_losses = [arrays[f"{name}/loss"] for _, arrays in batches]
            loss_sum, weight_sum = np.stack(batch_losses).sum(axis=0, dtype=np.float64)
            losses[name] = (loss_sum, weight_sum)
        return Predictions([tuple(text.examples) for text in split.examples], by_task, losses)

    def tune(self, split: Split[MultiText, Windows], predictions: Predictions) -> None:
        """Tunes each task on its predictions."""
        for name, (task_split, _) in divide_by_task(split, self._evaluators).items():
            self._evaluators[name].tune(task_split, predictions.by_task[name])

    def measure(
        self, split: Split[MultiText, Windows], predictions: Predictions, loss_sum: float, weight_sum: float
    ) -> MultiTaskState:
        """Returns the metric states of all tasks."""
        states = {
            name: self._evaluators[name].measure(
                task_split, predictions.by_task[name], *predictions.losses[name]
            )
            for name, (task_split, _) in divide_by_task(split, self._evaluators).items()
        }
        return MultiTaskState(states, self._weights, self._averaged_metric)

    def metric_names(self, split: Split[MultiText, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        names = ["loss"]
        for name, (task_split, _) in divide_by_task(split, self._evaluators).items():
            names += [f"{name}/{key}" for key in self._evaluators[name].metric_names(task_split)]
        return names + list(average_metrics(self._averaged_metric, dict.fromkeys(names, 0.0)))

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics of each task as a line of the log."""
        summaries = []
        for name, evaluator in self._evaluators.items():
            if task_values := select_with_prefix(values, name):
                summaries.append(f"{name}: {evaluator.summarize(task_values)}")
        return "; ".join(summaries)

    def find_seen(
        self, split: Split[MultiText, Windows], predictions: Predictions, train: Sequence[MultiText]
    ) -> list[SeenItem]:
        """Returns (task's name, item) for each item that a task counts as seen in training."""
        seen = []
        for name, (task_split, _) in divide_by_task(split, self._evaluators).items():
            if (evaluator := self._evaluators[name]).compares_with_train:
                task_train = select_examples(train, name)
                task_seen = evaluator.find_seen(task_split, predictions.by_task[name], task_train)
                seen += [(name, item) for item in task_seen]
        return seen

    def write_evaluation(
        self,
        folder: Path,
        split: Split[MultiText, Windows],
        state: MultiTaskState,
        predictions: Predictions,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes each task's files, as split NAME-TASK, and eval/NAME.json with all metrics; returns the metrics.

        Prints a line for each task. Its tables are in its files.
        """
        seen_items = cast(Sequence[SeenItem], seen)  # as `find_seen` returned them
        for name, (task_split, _) in divide_by_task(split, self._evaluators).items():
            self._evaluators[name].write_evaluation(
                folder,
                task_split,
                state.by_task[name],
                predictions.by_task[name],
                seen=[item for task, item in seen_items if task == name],
                samples=samples,
                seed=seed,
                console=Console(quiet=True),
            )
            summary = self._evaluators[name].summarize(state.by_task[name].compute())
            console.print(f"{name}: {summary}; all tables: eval/{task_split.name}.txt", markup=False)
        metrics = state.compute()
        write_json(folder / "eval" / f"{split.name}.json", {"data": split.source, "metrics": metrics})
        return metrics
