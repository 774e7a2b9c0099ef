"""Reads and encodes texts for several tasks, finds the labels of each task, and divides a data set by task."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from jaxft.data.encoding.shared_texts import (
    MultiText,
    get_text_and_pair,
    join_examples,
    list_pieces,
    parse_data_sets,
    select_task_windows,
    split_dev_texts,
)
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log, Split
from jaxft.tasks.multi_task.encoding import encode_for_tasks, make_task_data
from jaxft.tasks.multi_task.names import select_examples, select_labels
from jaxft.tasks.multi_task.settings import Settings
from jaxft.tasks.reading import TextData, chunk_by_words

# A task's name, and its found labels or None without examples.
FoundLabels: TypeAlias = tuple[str, Sequence[Json] | None]


class MultiTaskData(TextData[MultiText]):
    """The texts of a run, each with the example of every task that reads it."""

    _config: Settings
    example_input = "Anna Smith moved to Berlin ."

    def __init__(self, config: Settings):
        super().__init__(config)
        self._tasks = make_task_data(config)

    def read(self, name: str, source: str, log: Log) -> list[MultiText]:
        """Returns the texts of the data sets in `source`, and logs the number of texts with labels for each task.

        Args:
          name: the name of the data set, for the log.
          source: see `parse_data_sets`.
          log: prints a line of the log.
        """
        texts: list[MultiText] = []
        for index, (tasks, address) in enumerate(parse_data_sets(source, list(self._tasks))):
            examples = {task: self._tasks[task].read(f"{name}-{task}", address, log) for task in tasks}
            texts += join_examples(examples, index)
        counts = ", ".join(
            f"{sum(task in text.examples for text in texts):,} for {task}" for task in self._tasks
        )
        log(f"{name}: {len(texts):,} texts, with labels {counts}")
        return texts

    def split_dev(
        self, texts: Sequence[MultiText], fraction: float, seed: int
    ) -> tuple[list[MultiText], list[MultiText]]:
        """Splits the texts of each data set into (train, dev)."""
        return split_dev_texts(texts, fraction, seed)

    def find_labels(self, texts: Sequence[MultiText]) -> list[FoundLabels]:
        """Returns the labels that each task finds in its examples."""
        found_labels: list[FoundLabels] = []
        for name, task in self._tasks.items():
            examples = select_examples(texts, name)
            found_labels.append((name, task.find_labels(examples) if examples else None))
        return found_labels

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the labels of all tasks, as TASK/LABEL.

        Raises:
          UserError: the training data has no text for a task.
        """
        labels = []
        found_by_task = cast(Sequence[FoundLabels], found_labels)  # as `find_labels` returned them
        for name, task in self._tasks.items():
            by_shard = [
                values for found_name, values in found_by_task if found_name == name and values is not None
            ]
            if not by_shard:
                raise UserError(
                    f"the training data has no text for the task {name}; name one in config.data.train"
                )
            labels += [f"{name}/{label}" for label in task.make_labels(list(itertools.chain(*by_shard)))]
        return labels

    def iterate_texts(self, train: Sequence[MultiText]) -> Iterator[str]:
        """Yields each text once, and its pair."""
        for text in train:
            first_example = next(iter(text.examples.values()))
            yield from (string for string in get_text_and_pair(first_example) if string is not None)

    def encode(
        self,
        texts: Sequence[MultiText],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of texts for all tasks; see `encode_for_tasks`."""
        texts = list_pieces(texts if only is None else texts[only.start : only.stop])
        by_task = {name: select_labels(labels, name) for name in self._tasks}
        return encode_for_tasks(self._tasks, by_task, texts, processor, self._config, cached=cached)

    def check(
        self, split: Split[MultiText, Windows], labels: Sequence[str], train: Sequence[MultiText], log: Log
    ) -> None:
        """Logs each task's warnings about its examples."""
        for name, (task_split, _) in divide_by_task(split, self._tasks).items():
            is_train = split.examples is train
            task_train = task_split.examples if is_train else select_examples(train, name)
            self._tasks[name].check(task_split, select_labels(labels, name), task_train, log)

    def chunk(self, texts: Iterable[MultiText | None], max_words: int) -> Iterator[Chunk[MultiText]]:
        """Yields chunks of texts."""
        return chunk_by_words(texts, _count_words, max_words)


def _count_words(text: MultiText) -> int:
    return 1 + max(
        len(" ".join(filter(None, get_text_and_pair(example))).split()) for example in text.examples.values()
    )


class TaskSplit(NamedTuple):
    """The examples and windows of one task in a data set.

    Attributes:
      split: the task's examples and windows, as if the task had read and encoded them itself. Its name is NAME-TASK.
      window_number: int32 [N], for each window of the data set its number in `split`; -1 for windows of other tasks.
    """

    split: Split[Any, Windows]
    window_number: np.ndarray


def divide_by_task(split: Split[MultiText, Windows], tasks: Iterable[str]) -> dict[str, TaskSplit]:
    """Returns the `TaskSplit` of each task that has examples in a data set."""
    task_splits, encoded = {}, list_pieces(split.examples)
    for task in tasks:
        if examples := select_examples(split.examples, task):
            member = np.array([task in text.examples for text in encoded], bool)
            windows, number = select_task_windows(split.windows, task, member)
            task_split = Split(f"{split.name}-{task}", split.source, examples, windows)
            task_splits[task] = TaskSplit(task_split, number)
    return task_splits
