"""Defines `Export`: what depends on the task where a run becomes a folder for PyTorch."""

from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jaxft.tasks.base import Task
from jaxft.tasks.run_facts import RunFacts


class ExportedHead(NamedTuple):
    """A head of a run: what is said of it, its task, the model of that task, and the path before its parameters."""

    export: "Export"
    task: Task
    model: nnx.Module
    prefix: str


class Export:
    """Says how the model of a run is exported. By default transformers has a class for it, which says all."""

    def __init__(self, run: RunFacts):
        self.run = run

    @property
    def head_name(self) -> str:
        """Returns the name of the head, if it is the only one."""
        return "head"

    @property
    def has_class(self) -> bool:
        """Returns whether transformers has a class for the model. If not, the export is a backbone and its heads."""
        return True

    @property
    def needs_loader(self) -> bool:
        """Returns whether an export needs heads and a loader, because transformers has no class or reads otherwise."""
        return not self.has_class

    def config_fields(self) -> dict[str, Any]:
        """Returns the fields that the task adds to config.json, besides the labels."""
        return dict(self.run.tuned)

    def describe_head(self) -> dict[str, Any]:
        """Returns what heads.json says of the head, besides its task and its labels."""
        return {}

    def decoding_tensors(self, task: Task, model: nnx.Module) -> dict[str, np.ndarray]:
        """Returns the arrays by which labels are decoded from logits, besides the linear layer."""
        return {}

    def list_heads(self, task: Task, model: nnx.Module) -> dict[str, ExportedHead]:
        """Returns the heads of the run by name."""
        return {self.head_name: ExportedHead(self, task, model, "head/")}
