"""Reads texts for several tasks, finds the labels of each task, and divides a data set by task."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.encoding.multi_task import (
    MultiText,
    join_examples,
    parse_data_sets,
    select_task_windows,
)
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError
from jaxft.tasks.base import Log, Split, Task
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.tasks.token_classification.task import TokenClassification

# Kind of task -> the class that reads its examples; `registry.task_class` chooses the class that is trained.
CLASSES: dict[str, type[Task]] = {
    "token_classification": TokenClassification,
    "sequence_classification": SequenceClassification,
}

FoundLabels = tuple[
    str, str, list[Any] | None
]  # (task's name, its kind, its found labels or None without examples)


def read_texts(config: Settings, name: str, source: str, log: Log) -> list[MultiText]:
    """Returns the texts of the data sets in `source`, and logs the number of texts with labels for each task.

    Args:
      name: the name of the data set, for the log.
      source: see `parse_data_sets`.
    """
    task_configs = make_task_configs(config)
    classes = {task: CLASSES[task_config.task] for task, task_config in task_configs.items()}
    texts: list[MultiText] = []
    for index, (tasks, address) in enumerate(parse_data_sets(source, list(task_configs))):
        examples = {
            task: classes[task].read(task_configs[task], f"{name}-{task}", address, log) for task in tasks
        }
        texts += join_examples(examples, index, classes)
    counts = ", ".join(
        f"{sum(task in text.examples for text in texts):,} for {task}" for task in task_configs
    )
    log(f"{name}: {len(texts):,} texts, with labels {counts}")
    return texts


def find_labels(texts: Sequence[MultiText]) -> list[FoundLabels]:
    """Returns the `FoundLabels` of each task."""
    kind_of_class = {task_class: kind for kind, task_class in CLASSES.items()}
    found_labels = []
    for name, task_class in texts[0].task_classes.items():
        examples = select_examples(texts, name)
        found_labels.append(
            (name, kind_of_class[task_class], task_class.find_labels(examples) if examples else None)
        )
    return found_labels


def make_labels(found_labels: Sequence[FoundLabels]) -> list[str]:
    """Returns the labels of all tasks, as TASK/LABEL.

    Raises:
      UserError: the training data has no text for a task.
    """
    labels = []
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in found_labels):
        by_shard = [values for task, _, values in found_labels if task == name and values is not None]
        if not by_shard:
            raise UserError(
                f"the training data has no text for the task {name}; name one in config.data.train"
            )
        task_labels = CLASSES[kind].make_labels(list(itertools.chain(*by_shard)))
        labels += [f"{name}/{label}" for label in task_labels]
    return labels


def select_examples(texts: Sequence[MultiText], task: str) -> list[Sentence | LabelledText]:
    """Returns the examples of a task."""
    return [text.examples[task] for text in texts if task in text.examples]


def select_with_prefix(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Returns the values under TASK/KEY, keyed by KEY."""
    prefix = f"{task}/"
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


class TaskSplit(NamedTuple):
    """The examples and windows of one task in a data set.

    Attributes:
      split: the task's examples and windows, as if the task had read and encoded them itself. Its name is NAME-TASK.
      window_number: int32 [N], for each window of the data set its number in `split`; -1 for windows of other tasks.
    """

    split: Split
    window_number: np.ndarray


def divide_by_task(split: Split, tasks: Iterable[str]) -> dict[str, TaskSplit]:
    """Returns the `TaskSplit` of each task that has examples in a data set."""
    task_splits = {}
    for task in tasks:
        if examples := select_examples(split.examples, task):
            member = np.array([task in text.examples for text in split.examples], bool)
            windows, number = select_task_windows(split.windows, task, member)
            task_split = Split(f"{split.name}-{task}", split.source, examples, windows)
            task_splits[task] = TaskSplit(task_split, number)
    return task_splits
