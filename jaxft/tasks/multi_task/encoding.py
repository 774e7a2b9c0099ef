"""Encodes texts for several tasks. Each text is encoded once for all tasks that have labels for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.shared_texts import EncodedTexts, MultiText, combine_windows, get_text_and_pair
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.multi_task.names import select_examples
from jaxft.tasks.multi_task.settings import Settings, make_task_configs
from jaxft.tasks.reading import TextData, cache_folder
from jaxft.tasks.registry import make_data


def make_task_data(config: Settings) -> dict[str, TextData[Any]]:
    """Returns what reads and encodes the texts of each task, by the task's name."""
    task_data = {}
    for name, task_config in make_task_configs(config).items():
        data = make_data(task_config)
        assert isinstance(data, TextData), f"{task_config.task} reads no text"
        task_data[name] = data
    return task_data


def encode_for_tasks(
    tasks: Mapping[str, TextData[Any]],
    labels: Mapping[str, Sequence[str]],
    texts: Sequence[MultiText],
    processor: TextProcessor,
    config: Settings,
    *,
    cached: bool,
) -> Windows:
    """Encodes all texts for all tasks; see `combine_windows` for the columns.

    If a task labels the words of a text, all words are encoded, in as many windows as needed. The labels of tasks that
    label texts then get, in each window, a weight of 1 over the number of windows. `config.data.truncation` decides how
    other texts are cut.
    """
    word_tasks = [name for name, task in tasks.items() if task.reads_words]
    text_tasks = [name for name in tasks if name not in word_tasks]
    encoded = []
    for (word_tasks_of_group, _), indices in _group_texts(word_tasks, text_tasks, texts).items():
        group = [texts[index] for index in indices]
        if word_tasks_of_group:
            windows_by_task = {
                name: tasks[name].encode(select_examples(group, name), labels[name], processor, cached=cached)
                for name in word_tasks_of_group
            }
            encoded.append(_join_word_windows(windows_by_task, np.array(indices, np.int32)))
        else:
            examples = [
                next(text.examples[name] for name in text_tasks if name in text.examples) for text in group
            ]
            encoded.append(_encode_texts(examples, np.array(indices, np.int32), processor, config, cached))
    text_labels = {name: _encode_text_labels(tasks[name], name, labels[name], texts) for name in text_tasks}
    data_sets = np.array([text.data_set for text in texts], np.int32)
    return combine_windows(encoded, data_sets, word_tasks, text_labels, list(tasks))


def _group_texts(
    word_tasks: Sequence[str], text_tasks: Sequence[str], texts: Sequence[MultiText]
) -> dict[tuple[tuple[str, ...], bool], list[int]]:
    """Groups the indices of texts that are encoded in the same way.

    A key is (the tasks that label words of the text, True for a text with a pair). A text without words for any task is
    in no group.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for index, text in enumerate(texts):
        with_words = tuple(name for name in word_tasks if name in text.examples and text.examples[name].words)
        has_pair = any(get_text_and_pair(example)[1] is not None for example in text.examples.values())
        if with_words or any(name in text.examples for name in text_tasks):
            groups.setdefault((with_words, has_pair), []).append(index)
    return groups


def _join_word_windows(windows_by_task: Mapping[str, Windows], text_indices: np.ndarray) -> EncodedTexts:
    """Joins the windows of texts that are read as words, which differ in labels only, by the tasks' names."""
    windows = next(iter(windows_by_task.values()))
    return EncodedTexts(
        windows=windows,
        text_indices=text_indices[windows.sentence],
        shares=1 / np.bincount(windows.sentence)[windows.sentence],
        lost=np.zeros(len(windows), np.int32),
        word=windows.word,
        word_labels={name: task_windows.labels for name, task_windows in windows_by_task.items()},
    )


def _encode_texts(
    examples: Sequence[LabelledText],
    text_indices: np.ndarray,
    processor: TextProcessor,
    config: Settings,
    cached: bool,
) -> EncodedTexts:
    windows = encode_labelled_texts(
        examples,
        np.zeros(len(examples), np.int32),  # `combine_windows` adds the labels of the tasks
        np.ones(len(examples), bool),
        processor.tokenizer,
        max_length=config.text_length,
        prompt_length=config.adapter.prompt_length,
        truncation=config.data.truncation,
        stride=config.data.stride,
        cache_dir=cache_folder(config.data.cache_dir) if cached else None,
    )
    return EncodedTexts(
        windows=windows,
        text_indices=text_indices[windows.sentence],
        shares=windows.column("weights"),
        lost=windows.column("lost"),
        word=None,
        word_labels={},
    )


@runtime_checkable
class _LabelsTexts(Protocol):
    """Encodes the labels of texts, as the data of a task that labels texts does besides `TaskData`."""

    def encode_targets(self, examples: Sequence[Any], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns what the loss compares with, [N] or [N, C], and bool [N], True for examples with a label."""


def _encode_text_labels(
    task: TextData[Any], name: str, labels: Sequence[str], texts: Sequence[MultiText]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the targets `[N, ...]` of a task that labels texts, and bool `[N]`, True for texts with a label."""
    assert isinstance(task, _LabelsTexts)
    is_member = np.array([name in text.examples for text in texts], bool)
    member_targets, member_is_known = task.encode_targets(select_examples(texts, name), labels)
    targets = np.zeros((len(texts), *member_targets.shape[1:]), member_targets.dtype)
    is_known = np.zeros(len(texts), bool)
    targets[is_member], is_known[is_member] = member_targets, member_is_known
    return targets, is_known
