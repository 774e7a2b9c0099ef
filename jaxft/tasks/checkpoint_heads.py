"""Finds out whether the head of a checkpoint has the labels of a run."""

from collections.abc import Mapping, Sequence
from typing import Any


def has_head(hf_config: Mapping[str, Any], architecture: str) -> bool:
    """Returns whether a checkpoint is one of transformers' classes whose names end in `architecture`."""
    return any(str(name).endswith(architecture) for name in hf_config.get("architectures") or ())


def find_head_order(
    hf_config: Mapping[str, Any], architecture: str, labels: Sequence[str]
) -> list[int] | None:
    """Returns the number of each of `labels` among the outputs of a checkpoint's head.

    Args:
      hf_config: the checkpoint's config.json.
      architecture: the end of the name of transformers' class for the task, such as "ForTokenClassification".
      labels: the names of the run's outputs.

    Returns:
      The numbers, in the order of `labels`; None if the head is another class's or has other labels.
    """
    names = hf_config.get("id2label") or {}
    numbers = {str(label): int(number) for number, label in names.items()}
    if not has_head(hf_config, architecture) or numbers.keys() != set(labels) or len(names) != len(labels):
        return None
    return [numbers[label] for label in labels]
