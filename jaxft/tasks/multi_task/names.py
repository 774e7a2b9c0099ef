"""Selects what belongs to one of several tasks: its examples, its labels and its values."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxft.data.encoding.shared_texts import MultiText
from jaxft.tasks.base import Json
from jaxft.tasks.multi_task.settings import Settings, make_task_configs
from jaxft.tasks.run_facts import AnyRunFacts, RunFacts


def select_examples(texts: Sequence[MultiText], task: str) -> list[Any]:
    """Returns the examples of a task."""
    return [text.examples[task] for text in texts if task in text.examples]


def select_labels(labels: Sequence[str], task: str) -> list[str]:
    """Returns the labels TASK/LABEL of a task, without its name."""
    return [label.partition("/")[2] for label in labels if label.partition("/")[0] == task]


def select_with_prefix(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Returns the values under TASK/KEY, keyed by KEY."""
    prefix = f"{task}/"
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def select_runs(run: RunFacts[Settings]) -> dict[str, AnyRunFacts]:
    """Returns the facts of each task of a run by its name, as if the run had only this task."""
    return {
        name: RunFacts(
            task_config,
            run.checkpoint,
            select_labels(run.labels, name),
            cast(Mapping[str, Json], run.tuned.get(name, {})),
        )
        for name, task_config in make_task_configs(run.config).items()
    }
