"""Says which head the checkpoint of a run has, and finds out whether that of a checkpoint has the labels of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.hub.fields import add_labels, make_exported_config
from jaxft.models.registry import family_of
from jaxft.tasks.base import Task
from jaxft.tasks.exports import AnyExport
from jaxft.tasks.registry import head_kind


def make_run_config(export: AnyExport) -> dict[str, Any]:
    """Returns the config.json of a run's model: the checkpoint's fields, class, labels, the task's fields."""
    run = export.run
    family = family_of(run.checkpoint.hf_config)
    if not export.has_class:
        return make_exported_config(run.checkpoint.hf_config, family.architecture)
    architecture = family.heads[head_kind(run.config.task)].architecture
    config = make_exported_config(run.checkpoint.hf_config, architecture)
    return (add_labels(config, run.labels) if run.labels else config) | export.config_fields()


def choose_exported(
    export: AnyExport, task: Task, parameters: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the parameters of a run that its checkpoint has: those of transformers' class, else the backbone's."""
    parameters = export.to_transformers(task, parameters)
    if export.has_class:
        return parameters
    return {name: value for name, value in parameters.items() if name.startswith("backbone/")}


def has_head(hf_config: Mapping[str, Any], architecture: str | tuple[str, ...]) -> bool:
    """Returns whether a checkpoint is of a class of transformers whose name ends in `architecture`, or one of them."""
    return any(str(name).endswith(architecture) for name in hf_config.get("architectures") or ())


def find_head_order(
    hf_config: Mapping[str, Any], architecture: str | tuple[str, ...], labels: Sequence[str]
) -> list[int] | None:
    """Returns the number of each of `labels` among the outputs of a checkpoint's head.

    Args:
      hf_config: the checkpoint's config.json.
      architecture: the end of the name of transformers' class for the task, such as "ForTokenClassification", or the
        ends of several.
      labels: the names of the run's outputs.

    Returns:
      The numbers, in the order of `labels`; None if the head is another class's or has other labels.
    """
    names = hf_config.get("id2label") or {}
    numbers = {str(label): int(number) for number, label in names.items()}
    if not has_head(hf_config, architecture) or numbers.keys() != set(labels) or len(names) != len(labels):
        return None
    return [numbers[label] for label in labels]
