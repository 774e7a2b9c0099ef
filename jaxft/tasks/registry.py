"""Lists the tasks by name, as import strings, so that settings are read without importing any network."""

import dataclasses
import difflib
import functools
import importlib
from typing import TYPE_CHECKING, Any

from jaxft.config import sections
from jaxft.config.settings import Schema, declarations, refuse

if TYPE_CHECKING:
    from jaxft.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Entry:
    """The import strings of a task.

    Attributes:
      settings: "module:name" of the settings class.
      task: "module:name" of the task class, or of a function that chooses the class by the settings.
      extends: earlier tasks whose settings this task also has.
    """

    settings: str
    task: str
    extends: tuple[str, ...] = ()


TASKS = {
    "token_classification": Entry(
        "jaxft.tasks.token_classification.settings:Settings",
        "jaxft.tasks.token_classification.crf:choose_class",
    ),
    "sequence_classification": Entry(
        "jaxft.tasks.sequence_classification.settings:Settings",
        "jaxft.tasks.sequence_classification.task:SequenceClassification",
    ),
    "question_answering": Entry(
        "jaxft.tasks.question_answering.settings:Settings",
        "jaxft.tasks.question_answering.task:QuestionAnswering",
    ),
    "causal_lm": Entry("jaxft.tasks.causal_lm.settings:Settings", "jaxft.tasks.causal_lm.task:CausalLM"),
    "multi_task": Entry(
        "jaxft.tasks.multi_task.settings:Settings",
        "jaxft.tasks.multi_task.task:MultiTask",
        extends=("token_classification", "sequence_classification"),
    ),
}


def schema_of(task: Any) -> Schema:
    """Returns the schema of the settings for `task`. Raises `UserError` if there is no such task."""
    if not isinstance(task, str) or task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if task == "crf_tagging":  # its name in an earlier version of jaxft
            hint = "; a CRF is token_classification with config.model.crf=True"
        raise refuse("task", task, f"one of {', '.join(TASKS)}{hint}")
    return _make_schema(task)


@functools.cache
def _make_schema(task: str) -> Schema:
    root = _load(TASKS[task].settings)
    owners: dict[str, tuple[str, ...]] = {}
    for name, entry in TASKS.items():
        for key in declarations(_load(entry.settings)):
            # A task that extends others also has their settings, but owns only the settings that they lack.
            if key not in declarations(root) and not (entry.extends and key in owners):
                owners[key] = (*owners.get(key, ()), name)
    return Schema(root, task, owners, TASKS[task].extends)


def task_class(config: sections.Settings) -> "type[Task]":
    """Returns the class of the task in `config`."""
    chosen = _load(TASKS[config.task].task)
    return chosen if isinstance(chosen, type) else chosen(config)


def _load(address: str):
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)
