"""Encodes texts for several tasks. Each text is encoded once for all tasks that have labels for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.multi_task import EncodedTexts, MultiText, combine_windows, get_text_and_pair
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.tasks.base import Task, cache_folder
from jaxft.tasks.multi_task.data import select_examples
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.token_classification.task import TokenClassification


def encode_for_tasks(
    tasks: Mapping[str, Task],
    texts: Sequence[MultiText],
    tokenizer: Any,
    config: Settings,
    *,
    cached: bool,
) -> Windows:
    """Encodes all texts for all tasks; see `combine_windows` for the columns.

    If a task labels the words of a text, all words are encoded, in as many windows as needed. The labels of tasks that
    label texts then get, in each window, a weight of 1 over the number of windows. `config.data.truncation` decides how
    other texts are cut.
    """
    word_tasks = [name for name, task in tasks.items() if isinstance(task, TokenClassification)]
    encoded = []
    for (word_tasks_of_group, _), indices in _group_texts(word_tasks, texts).items():
        group = [texts[index] for index in indices]
        text_indices = np.array(indices, np.int32)
        if word_tasks_of_group:
            encode = {name: tasks[name].encode for name in word_tasks_of_group}
            encoded.append(_encode_as_words(encode, group, text_indices, tokenizer, config, cached))
        else:
            encoded.append(_encode_as_texts(group, text_indices, tokenizer, config, cached))
    text_labels = {
        name: _encode_text_labels(task, name, texts) for name, task in tasks.items() if name not in word_tasks
    }
    data_sets = np.array([text.data_set for text in texts], np.int32)
    return combine_windows(encoded, data_sets, word_tasks, text_labels, list(tasks))


def _group_texts(
    word_tasks: Sequence[str], texts: Sequence[MultiText]
) -> dict[tuple[tuple[str, ...], bool], list[int]]:
    """Groups the indices of texts that are encoded in the same way.

    A key is (the tasks that label words of the text, True for a text with a pair). A text without words for any task is
    in no group.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for index, text in enumerate(texts):
        with_words = tuple(name for name in word_tasks if name in text.examples and text.examples[name].words)
        has_pair = any(get_text_and_pair(example)[1] is not None for example in text.examples.values())
        if with_words or any(isinstance(example, LabelledText) for example in text.examples.values()):
            groups.setdefault((with_words, has_pair), []).append(index)
    return groups


def _encode_as_words(
    encode: Mapping[str, Any],
    texts: Sequence[MultiText],
    text_indices: np.ndarray,
    tokenizer: Any,
    config: Settings,
    cached: bool,
) -> EncodedTexts:
    """Encodes texts as words. `encode` maps each task that labels their words to its method `encode`."""
    task_configs = make_task_configs(config)
    windows_by_task = {
        name: encode_words(select_examples(texts, name), tokenizer, task_configs[name], cached=cached)
        for name, encode_words in encode.items()
    }
    windows = next(iter(windows_by_task.values()))  # the windows of other tasks differ only in labels
    return EncodedTexts(
        windows=windows,
        text_indices=text_indices[windows.sentence],
        shares=1 / np.bincount(windows.sentence)[windows.sentence],
        lost=np.zeros(len(windows), np.int32),
        word=windows.word,
        word_labels={name: task_windows.labels for name, task_windows in windows_by_task.items()},
    )


def _encode_as_texts(
    texts: Sequence[MultiText], text_indices: np.ndarray, tokenizer: Any, config: Settings, cached: bool
) -> EncodedTexts:
    windows = encode_labelled_texts(
        [
            next(example for example in text.examples.values() if isinstance(example, LabelledText))
            for text in texts
        ],
        np.zeros(len(texts), np.int32),  # `combine_windows` adds the labels of the tasks
        np.ones(len(texts), bool),
        tokenizer,
        max_length=config.data.max_length,
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


def _encode_text_labels(task: Any, name: str, texts: Sequence[MultiText]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels `[N, ...]` of a task that labels texts, and bool `[N]`, True for texts with a label."""
    is_member = np.array([name in text.examples for text in texts], bool)
    member_labels, member_is_known = task.label_type.encode_targets(select_examples(texts, name))
    labels = np.zeros((len(texts), *member_labels.shape[1:]), member_labels.dtype)
    is_known = np.zeros(len(texts), bool)
    labels[is_member], is_known[is_member] = member_labels, member_is_known
    return labels, is_known
