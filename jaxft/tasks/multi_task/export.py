"""Says how a model with the heads of several tasks is exported."""

import functools
from collections.abc import Mapping
from typing import Any, cast

from flax import nnx

from jaxft.data.encoding.shared_texts import MultiText
from jaxft.layers.heads.multi_head import MultiHead
from jaxft.tasks.base import Answer, Json, Task
from jaxft.tasks.exports import AnyExport, Export, ExportedHead, HeadAnswer
from jaxft.tasks.multi_task.names import select_runs
from jaxft.tasks.multi_task.settings import Settings
from jaxft.tasks.multi_task.task import MultiTask
from jaxft.tasks.registry import make_export


class MultiTaskExport(Export[Settings, MultiText, Mapping[str, Any]]):
    """Exports the backbone, and the heads of each task beside it."""

    @property
    def has_class(self) -> bool:
        """Returns False: transformers has no class with several heads."""
        return False

    def list_heads(self, task: Task, model: nnx.Module) -> dict[str, ExportedHead]:
        """Returns the heads by the names of their tasks."""
        assert isinstance(task, MultiTask) and isinstance(model, MultiHead)
        return {
            name: ExportedHead(export, task.tasks[name], model.task_models[name], f"head/{name}/")
            for name, export in self._exports.items()
        }

    @functools.cached_property
    def _exports(self) -> dict[str, AnyExport]:
        """The exports of the tasks."""
        return {name: make_export(run) for name, run in select_runs(self.run).items()}

    def _readers(self) -> list[str]:
        """Returns the names of the tasks as which texts are read: those that label words if there are any."""
        return [name for name, export in self._exports.items() if export.labels_words] or list(self._exports)

    def describe_reading(self) -> dict[str, Json]:
        """Returns the windows of words if a task labels words, and else those of texts."""
        return self._exports[self._readers()[0]].describe_reading()

    def loader_input(self, text: MultiText) -> tuple[object, ...]:
        """Returns the words of a text if a task labels words, which all heads then read, else the text and its pair."""
        name = next((name for name in self._readers() if name in text.examples), None)
        return () if name is None else self._exports[name].loader_input(text.examples[name])

    def loader_answers(self, prediction: Mapping[str, Any], answer: Answer) -> dict[str, HeadAnswer]:
        """Returns what the head of each task must answer."""
        answers = {}
        for name, task_answer in answer.items():
            of_task = cast(Answer, task_answer)
            [answers[name]] = self._exports[name].loader_answers(prediction[name], of_task).values()
        return answers
