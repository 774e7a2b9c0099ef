"""Selects what belongs to one of several tasks: its examples, its labels and its values."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.data.encoding.shared_texts import MultiText


def select_examples(texts: Sequence[MultiText], task: str) -> list[Any]:
    """Returns the examples of a task."""
    return [text.examples[task] for text in texts if task in text.examples]


def select_labels(labels: Sequence[str], task: str) -> list[str]:
    """Returns the labels TASK/LABEL of a task, without its name."""
    return [label.partition("/")[2] for label in labels if label.partition("/")[0] == task]


def select_with_prefix(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Returns the values under TASK/KEY, keyed by KEY."""
    prefix = f"{task}/"
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
