"""Says how a model with the heads of several tasks is exported."""

import functools
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxft.data.encoding.shared_texts import MultiText
from jaxft.tasks.base import Task
from jaxft.tasks.exports import Export, ExportedHead
from jaxft.tasks.multi_task.names import select_labels
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import make_export
from jaxft.tasks.run_facts import RunFacts


class MultiTaskExport(Export):
    """Exports the backbone, and the heads of each task beside it."""

    @property
    def has_class(self) -> bool:
        """Returns False: transformers has no class with several heads."""
        return False

    def list_heads(self, task: Task, model: nnx.Module) -> dict[str, ExportedHead]:
        """Returns the heads by the names of their tasks."""
        return {
            name: ExportedHead(export, task.tasks[name], model.task_models[name], f"head/{name}/")
            for name, export in self._exports.items()
        }

    @functools.cached_property
    def _exports(self) -> dict[str, Export]:
        """The exports of the tasks."""
        return {
            name: make_export(
                RunFacts(
                    config,
                    self.run.checkpoint,
                    select_labels(self.run.labels, name),
                    self.run.tuned.get(name, {}),
                )
            )
            for name, config in make_task_configs(self.run.config).items()
        }

    def loader_input(self, text: MultiText) -> tuple[Any, ...]:
        """Returns the words of a text if a task labels words, which all heads then read, else the text and its pair."""
        taggers = [name for name, export in self._exports.items() if export.labels_words]
        name = next((name for name in taggers or self._exports if name in text.examples), None)
        return () if name is None else self._exports[name].loader_input(text.examples[name])

    def loader_answers(self, prediction: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the head of each task must answer."""
        answers = {}
        for name in answer:
            [answers[name]] = self._exports[name].loader_answers(prediction[name], answer[name]).values()
        return answers
