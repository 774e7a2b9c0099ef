"""Encodes texts for several tasks: each text is read once, for all tasks that have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.multi_task import Encoding, MultiText, combine_encodings, get_text_and_pair
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
    """Returns the windows of all texts for all tasks; see `combine_encodings` for their columns.

    If a task labels the words of a text, the text is read as these words, completely, in as many windows as that
    takes. A label of the text then weighs 1 / (number of windows) in each. Other texts are read as
    `config.data.truncation` says.
    """
    taggers = [name for name, task in tasks.items() if isinstance(task, TokenClassification)]
    # Texts that are read in the same way: by the tasks that label their words, and by being pairs.
    readings: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for index, text in enumerate(texts):
        text_taggers = tuple(name for name in taggers if name in text.examples and text.examples[name].words)
        is_pair = any(get_text_and_pair(example)[1] is not None for example in text.examples.values())
        if text_taggers or any(isinstance(example, LabelledText) for example in text.examples.values()):
            readings.setdefault((text_taggers, is_pair), []).append(index)
    encodings = []
    for (text_taggers, _), indices in readings.items():
        reading_texts = [texts[index] for index in indices]
        if text_taggers:
            owner, *columns = _encode_words(tasks, text_taggers, reading_texts, tokenizer, config, cached)
        else:
            owner, *columns = _encode_texts(reading_texts, tokenizer, config, cached)
        encodings.append(Encoding(np.array(indices, np.int32)[owner], *columns))
    targets = {
        name: _encode_targets(task, name, texts) for name, task in tasks.items() if name not in taggers
    }
    data_sets = np.array([text.data_set for text in texts], np.int32)
    return combine_encodings(encodings, data_sets, taggers, targets, list(tasks))


def _encode_words(
    tasks: Mapping[str, Task],
    taggers: Sequence[str],
    texts: Sequence[MultiText],
    tokenizer: Any,
    config: Settings,
    cached: bool,
):
    """Returns the fields of an `Encoding` of texts whose words all `taggers` label; owners are indices of `texts`."""
    task_configs = make_task_configs(config)
    windows_by_task = {
        name: tasks[name].encode(select_examples(texts, name), tokenizer, task_configs[name], cached=cached)
        for name in taggers
    }
    windows = windows_by_task[taggers[0]]  # those of the other tasks differ only in labels
    share = 1 / np.bincount(windows.sentence)[windows.sentence]
    labels = {name: task_windows.labels for name, task_windows in windows_by_task.items()}
    return windows.sentence, windows, windows.word, labels, share, np.zeros(len(windows), np.int32)


def _encode_texts(texts: Sequence[MultiText], tokenizer: Any, config: Settings, cached: bool):
    """Returns the fields of an `Encoding` of texts whose words no task labels; owners are indices of `texts`."""
    examples = [
        next(example for example in text.examples.values() if isinstance(example, LabelledText))
        for text in texts
    ]
    windows = encode_labelled_texts(
        examples,
        np.zeros(len(examples), np.int32),  # `combine_encodings` puts the tasks' labels in
        np.ones(len(examples), bool),
        tokenizer,
        max_length=config.data.max_length,
        truncation=config.data.truncation,
        stride=config.data.stride,
        cache_dir=cache_folder(config.data.cache_dir) if cached else None,
    )
    return windows.sentence, windows, None, {}, windows.column("weights"), windows.column("lost")


def _encode_targets(task: Any, name: str, texts: Sequence[MultiText]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels [texts, ...] of a task that labels texts, and which of all texts have one, bool [texts]."""
    is_member = np.array([name in text.examples for text in texts], bool)
    member_labels, member_known = task.label_type.encode_targets(select_examples(texts, name))
    labels = np.zeros((len(texts), *member_labels.shape[1:]), member_labels.dtype)
    known = np.zeros(len(texts), bool)
    labels[is_member], known[is_member] = member_labels, member_known
    return labels, known
