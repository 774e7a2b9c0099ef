"""Reads labelled texts, finds their labels, and checks data sets for doubtful ones."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxft.data.sources.dev_split import find_text_overlap
from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    collect_label_names,
    read_labelled_texts,
    sort_labels,
)
from jaxft.errors import UserError
from jaxft.tasks.base import Log, Split, count_set_in_any_process
from jaxft.tasks.sequence_classification.label_types import VALUE
from jaxft.tasks.sequence_classification.settings import Data

SHOWN = 12  # the most labels whose counts are logged


def read_texts(data: Data, problem_type: str, name: str, source: str, log: Log) -> list[LabelledText]:
    """Returns the texts of `source`, and logs their number, their labels and the number of empty texts.

    Args:
      data: the settings of the data.
      problem_type: the setting `config.model.problem_type`.
      name: the name of the data set, for the log.
      source: the path or address of its files.
      log: prints a line of the log.

    Raises:
      UserError: all texts are empty.
    """
    columns = TextColumns(data.text, data.text_pair, data.label)
    examples = list(
        read_labelled_texts(
            source,
            columns=columns,
            problem=problem_type,
            separator=data.label_separator,
            format=data.format,
        )
    )
    noun = "pairs" if data.text_pair else "texts"
    log(f"{name}: {source}: {len(examples):,} {noun}; {_describe_labels(examples)}")
    empty = [example for example in examples if not example.text.strip() and not (example.pair or "").strip()]
    if len(empty) == len(examples):
        raise UserError(
            f"{name}: {source}: all {len(empty):,} texts are empty; is config.data.text={data.text!r} right?"
        )
    if empty:
        log(
            f"warning: {name}: {len(empty):,} of {len(examples):,} texts are empty, and stay in; the first: "
            f"{empty[0].origin}"
        )
    return examples


def _describe_labels(examples: Sequence[LabelledText]) -> str:
    """Describes the labels of a data set, for the log."""
    if isinstance(examples[0].label, float):
        values = [example.label for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.4g}"
    labels = ([example.label] if isinstance(example.label, str) else example.label for example in examples)
    counts = Counter(name for names in labels for name in names)
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(SHOWN))
    return f"{len(counts)} labels: {shown}{', ...' if len(counts) > SHOWN else ''}"


def find_labels(examples: Sequence[LabelledText]) -> list[str | float]:
    """Returns the names of the labels; for numbers the least and the greatest."""
    if isinstance(examples[0].label, float):
        numbers = [example.label for example in examples]
        return [min(numbers), max(numbers)]
    return collect_label_names(examples)


def make_labels(found_labels: Sequence[str | float]) -> list[str]:
    """Returns the labels sorted by name, or by number if all names are integers; `VALUE` if labels are numbers.

    Args:
      found_labels: the results of `find_labels` for all shards, concatenated.

    Raises:
      UserError: there is only one label or number, so there is nothing to learn.
    """
    if found_labels and isinstance(found_labels[0], float):
        if min(found_labels) == max(found_labels):
            raise UserError(
                f"all labels of the training data are {found_labels[0]:g}: there is nothing to learn; is "
                "config.data.label right?"
            )
        return [VALUE]
    names = sort_labels(set(found_labels))
    if len(names) < 2:
        raise UserError(
            f"the training data has {len(names)} label{': ' + repr(names[0]) if names else 's'}; two or more "
            "are needed to learn anything; is config.data.label right?"
        )
    return names


def check_texts(
    split: Split, train: Sequence[LabelledText], data: Data, labels: Sequence[str], log: Log
) -> None:
    """Logs if there are too many labels, and logs texts that are also in `train` and texts that are shortened.

    Args:
      labels: the labels of the model.
    """
    name, examples, windows = split.name, split.examples, split.windows
    is_train = examples is train
    is_whole_train = (
        is_train and data.shards == 1
    )  # a shard's number of texts says nothing about the number of labels
    if is_whole_train and len(labels) > max(len(examples) // 2, 2):
        log(f"warning: {len(labels):,} labels for {len(examples):,} texts; is config.data.label right?")
    if not is_train and (shared := count_set_in_any_process(find_text_overlap(train, examples))):
        log(f"warning: {shared:,} of {len(examples):,} texts of {name} stand word for word in train")
    lost_tokens = windows.column("lost")
    if count := len(np.unique(windows.sentence[lost_tokens > 0])):
        hint = "config.data.truncation='windows' reads all"
        if data.truncation == "windows":
            hint = "config.data.truncation: windows read the longer text of a pair"
        log(
            f"{name}: {count:,} of {len(examples):,} texts are shortened, by {lost_tokens.max():,} tokens at most, to "
            f"fit config.data.max_length ({hint})"
        )
    if (extra := len(windows) - len(examples)) > 0:
        log(f"{name}: long texts have {extra:,} more windows, each with its text's label")
