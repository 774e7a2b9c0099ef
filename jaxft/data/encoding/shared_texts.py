"""Joins texts that several tasks read, combines their windows into one table, and selects the windows of one task."""

import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.sentences import IGNORED
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError


@dataclass(frozen=True, slots=True)
class MultiText:
    """A text, with the example that each task reads from it."""

    origin: str  # "data.jsonl:3", for messages
    data_set: int  # index of the data set in the order of the settings
    examples: dict[str, Any]  # task -> its example, without tasks that do not read the text
    # If tasks read different texts in one record, a `MultiText` for each of these, which is encoded in its place.
    pieces: "tuple[MultiText, ...]" = ()


def list_pieces(texts: Sequence[MultiText]) -> list[MultiText]:
    """Returns the texts that are encoded: the pieces of texts that have any, and the other texts themselves."""
    return [piece for text in texts for piece in text.pieces or (text,)]


def parse_data_sets(source: str, tasks: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Returns the data sets that `source` names, each as (names of the tasks that read it, address).

    All tasks read "a.jsonl". "intents,slots=a.jsonl;slots=b.conll" names two data sets, each read by the tasks before
    its "=".

    Raises:
      UserError: a task does not exist.
    """
    data_sets = []
    for entry in [source] if os.path.exists(source) else source.split(";"):
        head, equals, address = entry.strip().partition("=")
        if not equals or os.path.exists(entry) or not re.fullmatch(r"[\w, ]+", head):
            data_sets.append((tuple(tasks), entry.strip()))
            continue
        names = tuple(name.strip() for name in head.split(","))
        if unknown := [name for name in names if name not in tasks]:
            raise UserError(
                f"{source}: {unknown[0]!r} is no task; expected FILE or TASK=FILE, config.tasks has "
                f"{', '.join(tasks)}"
            )
        data_sets.append((names, address))
    return data_sets


def get_text_and_pair(example: Sentence | LabelledText) -> tuple[str, str | None]:
    """Returns the text of an example and its pair, if any; words without a text are joined by spaces."""
    if isinstance(example, LabelledText):
        return example.text, example.pair
    return (" ".join(example.words) if example.text is None else example.text), None


def join_examples(
    examples: Mapping[str, Iterable[Sentence | LabelledText]], data_set: int
) -> list[MultiText]:
    """Joins the examples that several tasks read from one data set. Examples of the same text and place become one.

    Args:
      examples: task -> its examples.
      data_set: the index of the data set.

    Raises:
      UserError: two tasks split a text into different words, so one encoding cannot serve both.
    """
    joined: dict[tuple[str | None, ...], MultiText] = {}
    for task, task_examples in examples.items():
        for example in task_examples:
            key = (example.origin, *get_text_and_pair(example))
            multi_text = joined.setdefault(key, MultiText(example.origin, data_set, {}))
            for other_task, other in multi_text.examples.items():
                if not (isinstance(other, Sentence) and isinstance(example, Sentence)):
                    continue
                if other.words != example.words:
                    raise UserError(
                        f"{example.origin}: the tasks {other_task} and {task} cut the text into different words (a "
                        "span that ends inside a word cuts it); give them files of their own, "
                        f"{other_task}=FILE;{task}=ANOTHER"
                    )
            multi_text.examples[task] = example
    return list(joined.values())


def split_dev_texts(
    texts: Sequence[MultiText], fraction: float, seed: int
) -> tuple[list[MultiText], list[MultiText]]:
    """Splits off a fraction of the texts of each data set, at least one; returns (train, dev)."""
    dev_indices: set[int] = set()
    for data_set in sorted({text.data_set for text in texts}):
        members = [index for index, text in enumerate(texts) if text.data_set == data_set]
        if len(members) < 2:
            raise UserError(
                f"{len(members)} text in data set {data_set + 1} of the training data: none can be split off for "
                "evaluation; add data, or name a dev set"
            )
        dev_indices.update(random.Random(seed).sample(members, max(1, round(fraction * len(members)))))
    train = [text for index, text in enumerate(texts) if index not in dev_indices]
    dev = [text for index, text in enumerate(texts) if index in dev_indices]
    return train, dev


@dataclass(frozen=True)
class EncodedTexts:
    """The N windows of texts that are encoded in the same way, before they are combined with other windows."""

    windows: Windows
    text_indices: np.ndarray  # int32 [N]: each window's text among all texts
    shares: np.ndarray  # float32 [N]: 1 over the number of the text's windows
    lost: np.ndarray  # int32 [N]: tokens of the text that were cut off
    word: np.ndarray | None  # int32 [tokens] as `Windows.word`, if texts are read as words
    word_labels: dict[str, np.ndarray]  # task that labels words -> label ids, int32 [tokens]


def combine_windows(
    encoded: Sequence[EncodedTexts],
    data_sets: np.ndarray,
    word_tasks: Sequence[str],
    text_labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tasks: Sequence[str],
) -> Windows:
    """Combines all windows, with the labels of all tasks, into one table.

    The table has these columns:

    - `input_ids`, `sentence` (the index of the text), `data_set`, `lost` and `word`;
    - `TASK/labels` for each task, and `TASK/weights` for each task that labels texts;
    - `task_weights`, `[N, T]`: the sum of a window's weights for each of `tasks`;
    - `token_type_ids`, if texts have them.

    Args:
      encoded: the windows of each group of texts that are encoded in the same way.
      data_sets: int32 `[texts]`, the data set of each text.
      word_tasks: the tasks that label words.
      text_labels: task that labels texts -> labels `[texts, ...]` and bool `[texts]`, True for texts with a label.
      tasks: all tasks, in order.
    """
    text_indices = np.concatenate([group.text_indices for group in encoded])
    lengths = np.concatenate([group.windows.lengths for group in encoded])
    shares = np.concatenate([group.shares for group in encoded])
    offsets = offsets_from_lengths(lengths)

    def token_column(values: Sequence[np.ndarray | None], default: int) -> np.ndarray:
        """Joins a column of all groups. Tokens of a group that lacks the column get `default`."""
        columns = [
            np.full(group.windows.offsets[-1], default, np.int32) if group_values is None else group_values
            for group, group_values in zip(encoded, values, strict=True)
        ]
        return np.concatenate(columns).astype(np.int32, copy=False)

    def as_lists(values: np.ndarray) -> pa.Array:
        return pa.LargeListArray.from_arrays(offsets, pa.array(values))

    columns = {
        "input_ids": as_lists(token_column([group.windows.input_ids for group in encoded], 0)),
        "sentence": pa.array(text_indices.astype(np.int32)),
        "data_set": pa.array(data_sets[text_indices].astype(np.int32)),
        "lost": pa.array(np.concatenate([group.lost for group in encoded]).astype(np.int32)),
        "word": as_lists(token_column([group.word for group in encoded], -1)),
    }
    types = [_column_or_none(group.windows, "token_type_ids") for group in encoded]
    if any(group_types is not None for group_types in types):
        columns["token_type_ids"] = as_lists(token_column(types, 0))
    weights = {}
    for task in word_tasks:
        labels = token_column([group.word_labels.get(task) for group in encoded], IGNORED)
        columns[f"{task}/labels"] = as_lists(labels)
        window = np.repeat(np.arange(len(lengths)), lengths)
        weights[task] = np.bincount(window[labels >= 0], minlength=len(lengths))
    for task, (labels, is_known) in text_labels.items():
        columns[f"{task}/labels"] = _as_array(labels[text_indices])
        weights[task] = np.where(is_known[text_indices], shares, 0)
        columns[f"{task}/weights"] = pa.array(weights[task].astype(np.float32))
    task_weights = np.stack([weights[task] for task in tasks], axis=1)
    columns["task_weights"] = _as_array(task_weights.astype(np.float32))
    return Windows(pa.RecordBatch.from_pydict(columns))


def _column_or_none(windows: Windows, name: str) -> np.ndarray | None:
    return windows.column(name) if windows.has_column(name) else None


def _as_array(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.ravel())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def select_task_windows(windows: Windows, task: str, is_member: np.ndarray) -> tuple[Windows, np.ndarray]:
    """Selects the windows of one task from those of all tasks.

    Args:
      windows: a table that `combine_windows` made.
      task: the name of the task.
      is_member: bool `[texts]`, True for the texts of the task; they are renumbered from 0.

    Returns:
      The task's windows, as if the task had encoded its texts itself, and int32 `[N]`: for each window of the table its
      number among the task's windows, -1 for windows of other tasks.
    """
    kept = np.flatnonzero(is_member[windows.sentence])
    numbers = np.full(len(windows), -1, np.int32)
    numbers[kept] = np.arange(len(kept))
    new_names = {f"{task}/labels": "labels", f"{task}/weights": "weights"}
    names = [
        name
        for name in ("input_ids", "lost", "word", "token_type_ids", *new_names)
        if windows.has_column(name)
    ]
    rows = windows.record_batch.select(names).take(pa.array(kept))
    columns = {new_names.get(name, name): rows.column(name) for name in rows.schema.names}
    sentence = (np.cumsum(is_member) - 1)[windows.sentence[kept]]
    columns["sentence"] = pa.array(sentence.astype(np.int32))
    return Windows(pa.RecordBatch.from_pydict(columns)), numbers
