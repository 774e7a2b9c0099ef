"""Encodes texts for several tasks at once: one reading for all that a text has labels for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.multi_task import Encoding, MultiText, combine_encodings, get_text_and_pair
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.tasks.base import Task, cache_folder
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.token_classification.task import TokenClassification


def encode_for_tasks(
    tasks: Mapping[str, Task],
    examples: Sequence[MultiText],
    tokenizer: Any,
    config: Settings,
    *,
    cached: bool,
) -> Windows:
    """Windows of all examples for all tasks; see `joint.together` for their columns.

    A text that some task labels the words of is read as these words, whole, in as many windows as it takes; its labels
    as a text then weigh 1 over that number in each. Other texts are read as `config.data.truncation` says.
    """
    taggers = [name for name, task in tasks.items() if isinstance(task, TokenClassification)]
    readings: dict[
        tuple, list[int]
    ] = {}  # texts that are read alike: by tasks of their words, and whether in pairs
    for index, example in enumerate(examples):
        own = tuple(name for name in taggers if name in example.examples and example.examples[name].words)
        pair = any(get_text_and_pair(part)[1] is not None for part in example.examples.values())
        if own or any(isinstance(part, LabelledText) for part in example.examples.values()):
            readings.setdefault((own, pair), []).append(index)
    encodings = []
    for (own, _), members in readings.items():
        some = [examples[index] for index in members]
        if own:
            owner, *rest = _as_words(tasks, own, some, tokenizer, config, cached)
        else:
            owner, *rest = _as_texts(some, tokenizer, config, cached)
        encodings.append(Encoding(np.array(members, np.int32)[owner], *rest))
    targets = {name: _targets(task, name, examples) for name, task in tasks.items() if name not in taggers}
    data_sets = np.array([example.data_set for example in examples], np.int32)
    return combine_encodings(encodings, data_sets, taggers, targets, list(tasks))


def _as_words(tasks, names: tuple[str, ...], examples: Sequence[MultiText], tokenizer, config, cached: bool):
    settings = make_task_configs(config)
    found = {
        name: tasks[name].encode(
            [e.examples[name] for e in examples], tokenizer, settings[name], cached=cached
        )
        for name in names
    }
    windows = found[names[0]]  # the others' differ in labels only
    share = 1 / np.bincount(windows.sentence)[windows.sentence]
    labels = {name: one.labels for name, one in found.items()}
    return windows.sentence, windows, windows.word, labels, share, np.zeros(len(windows), np.int32)


def _as_texts(examples: Sequence[MultiText], tokenizer, config: Settings, cached: bool):
    texts = [next(part for part in e.examples.values() if isinstance(part, LabelledText)) for e in examples]
    windows = encode_labelled_texts(
        texts,
        np.zeros(len(texts), np.int32),  # the tasks' labels are put in later
        np.ones(len(texts), bool),
        tokenizer,
        max_length=config.data.max_length,
        truncation=config.data.truncation,
        stride=config.data.stride,
        cache_dir=cache_folder(config.data.cache_dir) if cached else None,
    )
    return windows.sentence, windows, None, {}, windows.column("weights"), windows.column("lost")


def _targets(task: Any, name: str, examples: Sequence[MultiText]) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, ...] of a task that labels texts, and which of all examples have one, bool [N]."""
    member = np.array([name in example.examples for example in examples], bool)
    found, has = task.label_type.encode_targets([e.examples[name] for e in examples if name in e.examples])
    labels = np.zeros((len(examples), *found.shape[1:]), found.dtype)
    known = np.zeros(len(examples), bool)
    labels[member], known[member] = found, has
    return labels, known
