"""Finds the labels of examples, puts them in order, and refuses those that cannot be right."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from jaxft.data.sources.labels import (
    MULTI,
    NUMBER,
    SINGLE,
    Labelled,
    are_numbers,
    collect_label_names,
    sort_labels,
)
from jaxft.errors import UserError, list_names
from jaxft.tasks.base import Log
from jaxft.tasks.labels.number_label import VALUE
from jaxft.tasks.labels.settings import LabelData

_TWO_BITS = re.compile(r"[01](,\s*|[;|]\s*|\s+)[01]")  # a row of two labels; longer ones are read as rows

NEARLY_ALL = 0.9  # a share of examples from which on the key of the labels cannot be right
LEAST_EXAMPLES = 20  # fewer examples may have a label each
FoundLabel: TypeAlias = str | float | Sequence[str]  # see `find_labels`

DIVIDERS = (";", "|", ",")  # what may divide the labels in a string


def check_labels(
    examples: Sequence[Labelled],
    data: LabelData,
    problem_type: str,
    noun: str,
    name: str,
    source: str,
    log: Log,
) -> None:
    """Raises `UserError` for labels that cannot be learnt; warns about strings that seem to hold several.

    Args:
      examples: the examples of a data set. Only the labels of a complete training set are checked.
      data: the settings of the data.
      problem_type: the setting `config.model.problem_type`.
      noun: the name of an example, in the singular.
      name: the name of the data set.
      source: the path or address of its files.
      log: prints a line of the log.
    """
    hint = f"is config.data.label={data.label!r} right?"
    # The labels of a shard say nothing about those of all.
    if name.partition("-")[0] != "train" or data.shards > 1:
        return
    sets = {frozenset(example.label) for example in examples} if problem_type == MULTI else set()
    if len(sets) == 1 and (shared := sorted(*sets)):
        raise UserError(
            f"{name}: {source}: all {len(examples):,} {noun}s have the same labels ({', '.join(shared)}), so there is "
            f"nothing to learn; {hint} If it holds a 0 or 1 for each label, name these in config.data.label_names"
        )
    names = collect_label_names(examples)
    if problem_type == SINGLE and all(_TWO_BITS.fullmatch(label) for label in names):
        raise UserError(
            f"{name}: {source}: labels such as {names[0]!r} have a 0 or 1 for each of 2 labels, but nothing names the "
            f"labels; name them in this order, config.data.label_names=('a', 'b'), and set config.model.problem_type="
            f"{MULTI!r} if a {noun} may have several; {hint}"
        )
    if problem_type == SINGLE and len(examples) >= LEAST_EXAMPLES and len(names) > NEARLY_ALL * len(examples):
        number_hint = f" To predict numbers, set config.model.problem_type={NUMBER!r}" * are_numbers(names)
        raise UserError(
            f"{name}: {source}: {len(names):,} different labels for {len(examples):,} {noun}s, such as "
            f"{examples[0].label!r}, so that no label can be learnt; {hint}{number_hint}"
        )
    for divider in DIVIDERS:
        if joined := _find_joined_names(names, divider):
            setting = f"config.data.label_separator={divider!r}"
            if problem_type == SINGLE:
                setting = f"config.model.problem_type={MULTI!r} and {setting}"
            count = "1 label seems" if len(joined) == 1 else f"{len(joined):,} labels seem"
            log(
                f"warning: {name}: {count} to be several with {divider!r} between, such as {joined[0]!r}; if "
                f"{'it is' if len(joined) == 1 else 'they are'}, set {setting}"
            )


def _find_joined_names(names: Sequence[str], divider: str) -> list[str]:
    """Returns the names that hold `divider` and have another name before or after it."""
    known = set(names)
    return [
        name
        for name in names
        if divider in name and any(piece.strip() in known for piece in name.split(divider))
    ]


def describe_labels(examples: Sequence[Labelled]) -> str:
    """Describes the labels of a data set, for the log."""
    if isinstance(examples[0].label, float):
        values = [example.label for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.4g}"
    labels = ([example.label] if isinstance(example.label, str) else example.label for example in examples)
    counts = Counter(name for names in labels for name in names)
    return (
        f"{len(counts)} labels: {list_names([f'{name} {count:,}' for name, count in counts.most_common()])}"
    )


def _describe_order(examples: Sequence[Labelled], data: LabelData, labels: Sequence[str]) -> str:
    """Returns what the order of labels comes from, for the log."""
    if data.label_names:
        return "in the order of config.data.label_names"
    if "," in data.label and labels[0] in data.label:
        return "in the order of config.data.label"
    if any(example.label_names for example in examples):
        return "in the order that the data declares"
    return (
        f"sorted by {'number' if are_numbers(labels) else 'name'}; config.data.label_names sets another order"
    )


def find_labels(examples: Sequence[Labelled]) -> list[FoundLabel]:
    """Returns what `make_labels` needs to know of the labels.

    These are the names, and before them each list of names in the order that the data or the settings declare; for
    numbers the least and the greatest.
    """
    if isinstance(examples[0].label, float):
        numbers = [example.label for example in examples]
        return [min(numbers), max(numbers)]
    declared = dict.fromkeys(example.label_names for example in examples if example.label_names)
    return [*map(list, declared), *collect_label_names(examples)]


def make_labels(found_labels: Sequence[FoundLabel]) -> list[str]:
    """Returns the labels: those that are declared, in their order, then the others by `sort_labels`.

    Args:
      found_labels: the results of `find_labels` for all shards, concatenated.

    Returns:
      The labels; `VALUE` if they are numbers.

    Raises:
      UserError: there is only one label or number, so there is nothing to learn.
    """
    if numbers := [item for item in found_labels if isinstance(item, float)]:
        if min(numbers) == max(numbers):
            raise UserError(
                f"all labels of the training data are {numbers[0]:g}: there is nothing to learn; is "
                "config.data.label right?"
            )
        return [VALUE]
    declared = dict.fromkeys(name for item in found_labels if isinstance(item, list | tuple) for name in item)
    names = sort_labels({item for item in found_labels if isinstance(item, str)})
    if len(names) < 2:
        raise UserError(
            f"the training data has {len(names)} label{': ' + repr(names[0]) if names else 's'}; two or more "
            "are needed to learn anything; is config.data.label right?"
        )
    return list(declared | dict.fromkeys(names))


def warn_of_labels(
    examples: Sequence[Labelled],
    data: LabelData,
    labels: Sequence[str],
    noun: str,
    name: str,
    is_train: bool,
    log: Log,
) -> None:
    """Logs the model's labels, and if there are too many, or some that no example of a data set has.

    Args:
      examples: the examples of the data set.
      data: the settings of the data.
      labels: the labels of the model.
      noun: the name of an example, in the singular.
      name: the name of the data set.
      is_train: whether it is the training data, or a shard of it.
      log: prints a line of the log.
    """
    is_whole_train = (
        is_train and data.shards == 1
    )  # a shard's number of examples says nothing about the number of labels
    if is_whole_train and len(labels) > max(len(examples) // 2, 2):
        log(f"warning: {len(labels):,} labels for {len(examples):,} {noun}s; is config.data.label right?")
    if labels != [VALUE] and (is_whole_train or not is_train):
        present = collect_label_names(examples)
        if unused := [label for label in labels if label not in present]:
            hint = "" if is_train else "; its scores say nothing about that"
            log(
                f"warning: no {noun} of {name} has the label{'s' * (len(unused) > 1)} {list_names(unused)}{hint}"
            )
    if is_train and name.partition("#")[2].partition("/")[0] in ("", "1") and labels != [VALUE]:
        log(f"the model's labels: {list_names(labels)} ({_describe_order(examples, data, labels)})")
