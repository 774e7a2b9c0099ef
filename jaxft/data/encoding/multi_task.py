"""Texts that several tasks read: joined where they are the same, encoded once, and taken apart again by task."""

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
from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError


@dataclass(frozen=True, slots=True)
class MultiText:
    """One text and what each task that has it makes of it."""

    origin: str  # "data.jsonl:3", for messages
    data_set: int  # which of those that the settings name
    examples: dict[str, Sentence | LabelledText]  # by task
    task_classes: Mapping[str, Any]  # the class of each task of the run, by name


def parse_data_sets(source: str, tasks: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """The data sets that `source` names, and the tasks that read each.

    "a.jsonl" is read by all tasks; "intents,slots=a.jsonl;slots=b.conll" are two, each read by those before "=".
    Raises `UserError` for a task that isn't there.
    """
    found = []
    for part in [source] if os.path.exists(source) else source.split(";"):
        head, equals, rest = part.strip().partition("=")
        if not equals or os.path.exists(part) or not re.fullmatch(r"[\w, ]+", head):
            found.append((tuple(tasks), part.strip()))
            continue
        names = tuple(name.strip() for name in head.split(","))
        if unknown := [name for name in names if name not in tasks]:
            raise UserError(
                f"{source}: {unknown[0]!r} is no task; expected FILE or TASK=FILE, config.tasks has "
                f"{', '.join(tasks)}"
            )
        found.append((names, rest))
    return found


def get_text_and_pair(example: Sentence | LabelledText) -> tuple[str, str | None]:
    """What is read of an example: text and pair; words without a text have spaces between."""
    if isinstance(example, LabelledText):
        return example.text, example.pair
    return (" ".join(example.words) if example.text is None else example.text), None


def join_examples(
    examples: Mapping[str, Iterable[Sentence | LabelledText]], data_set: int, kinds: Mapping[str, Any]
) -> list[MultiText]:
    """Examples of several tasks from one source, those of the same text and place being one.

    Raises `UserError` where two tasks see a text as different words, so that it cannot be encoded once for both.
    """
    found: dict[tuple, MultiText] = {}
    for name, some in examples.items():
        for example in some:
            key = (example.origin, *get_text_and_pair(example))
            one = found.setdefault(key, MultiText(example.origin, data_set, {}, kinds))
            for other, part in one.examples.items():
                both = isinstance(part, Sentence) and isinstance(example, Sentence)
                if both and part.words != example.words:
                    raise UserError(
                        f"{example.origin}: the tasks {other} and {name} cut the text into different words (a span "
                        "that ends inside a word cuts it); give them files of their own, "
                        f"{other}=FILE;{name}=ANOTHER"
                    )
            one.examples[name] = example
    return list(found.values())


def split_dev_texts(
    examples: Sequence[MultiText], fraction: float, seed: int
) -> tuple[list[MultiText], list[MultiText]]:
    """(train, dev): of each data set a part of its texts, one at least."""
    taken: set[int] = set()
    for data_set in sorted({example.data_set for example in examples}):
        own = [index for index, example in enumerate(examples) if example.data_set == data_set]
        if len(own) < 2:
            raise UserError(
                f"{len(own)} text in data set {data_set + 1} of the training data: none can be split off for "
                "evaluation; add data, or name a dev set"
            )
        taken.update(random.Random(seed).sample(own, max(1, round(fraction * len(own)))))
    parts = ([], [])
    for index, example in enumerate(examples):
        parts[index in taken].append(example)
    return parts


@dataclass
class Encoding:
    """Windows of one reading of some texts, before those of all are put together."""

    owner: np.ndarray  # int32 [N]: each window's text
    windows: Windows
    word: np.ndarray | None  # int32 [tokens], where texts are read as words
    labels: dict[str, np.ndarray]  # of tasks that label words: int32 [tokens]
    share: np.ndarray  # float32 [N]: 1 over the number of the text's windows
    lost: np.ndarray  # int32 [N]: tokens of the text that were cut off


def combine_encodings(
    encodings: Sequence[Encoding],
    data_sets: np.ndarray,
    taggers: Sequence[str],
    texts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    order: Sequence[str],
) -> Windows:
    """One table of the windows of all readings.

    Args:
      data_sets: int32 [texts].
      taggers: tasks that label words. texts: those that label texts, with labels [texts, ...] and known bool [texts].
      order: all tasks, as in the column `task_weights` [N, T]: the sum of a window's weights for each.
    """
    owner = np.concatenate([e.owner for e in encodings])
    lengths = np.concatenate([e.windows.lengths for e in encodings])
    offsets = offsets_from_lengths(lengths)

    def tokens(values: Sequence[np.ndarray | None], empty: int) -> np.ndarray:
        pieces = [
            np.full(e.windows.offsets[-1], empty, np.int32) if v is None else v
            for e, v in zip(encodings, values, strict=True)
        ]
        return np.concatenate(pieces).astype(np.int32, copy=False)

    def lists(values: np.ndarray) -> pa.Array:
        return pa.LargeListArray.from_arrays(offsets, pa.array(values))

    columns = {
        "input_ids": lists(tokens([e.windows.input_ids for e in encodings], 0)),
        "sentence": pa.array(owner.astype(np.int32)),
        "data_set": pa.array(data_sets[owner].astype(np.int32)),
        "lost": pa.array(np.concatenate([e.lost for e in encodings]).astype(np.int32)),
        "word": lists(tokens([e.word for e in encodings], -1)),
    }
    if any(e.windows.has_column("token_type_ids") for e in encodings):
        kinds = [
            e.windows.column("token_type_ids") if e.windows.has_column("token_type_ids") else None
            for e in encodings
        ]
        columns["token_type_ids"] = lists(tokens(kinds, 0))
    share = np.concatenate([e.share for e in encodings])
    sums = {}
    for name in taggers:
        labels = tokens([e.labels.get(name) for e in encodings], IGNORED)
        columns[f"{name}/labels"] = lists(labels)
        window = np.repeat(np.arange(len(lengths)), lengths)
        sums[name] = np.bincount(window[labels >= 0], minlength=len(lengths))
    for name, (labels, known) in texts.items():
        columns[f"{name}/labels"] = _values(labels[owner])
        sums[name] = np.where(known[owner], share, 0)
        columns[f"{name}/weights"] = pa.array(sums[name].astype(np.float32))
    columns["task_weights"] = _values(np.stack([sums[name] for name in order], axis=1).astype(np.float32))
    return Windows(pa.RecordBatch.from_pydict(columns))


def _values(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.ravel())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def select_task_windows(windows: Windows, name: str, member: np.ndarray) -> tuple[Windows, np.ndarray]:
    """One task's windows, as it would have encoded them, and each window's number among them, int32 [N], else -1.

    member: bool [texts], which are the task's; they are numbered anew.
    """
    kept = np.flatnonzero(member[windows.sentence])
    number = np.full(len(windows), -1, np.int32)
    number[kept] = np.arange(len(kept))
    own = {f"{name}/labels": "labels", f"{name}/weights": "weights"}
    wanted = ["input_ids", "lost", "word", "token_type_ids", *own]
    taken = windows.record_batch.select([column for column in wanted if windows.has_column(column)]).take(
        pa.array(kept)
    )
    columns = {own.get(column, column): taken.column(column) for column in taken.schema.names}
    sentence = (np.cumsum(member) - 1)[windows.sentence[kept]]
    return Windows(
        pa.RecordBatch.from_pydict(columns | {"sentence": pa.array(sentence.astype(np.int32))})
    ), number
