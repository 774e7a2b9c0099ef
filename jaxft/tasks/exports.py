"""Defines `Export`: what depends on the task where a run becomes a folder for PyTorch."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeAlias

import numpy as np
from flax import nnx

from jaxft.config import sections
from jaxft.data.encoding.encoded import Encoded
from jaxft.hub.fields import name_activation
from jaxft.layers.heads.classification import HeadForm
from jaxft.tasks.base import Answer, Example, Json, Prediction, Task
from jaxft.tasks.run_facts import RunFacts, TaskSettings

# What a head answers: a number, a label, tags, or a set of labels.
HeadAnswer: TypeAlias = float | str | Sequence[str] | set[str]


def describe_layers(form: HeadForm) -> dict[str, Json]:
    """Returns what heads.json says of the layers before a head's output layer."""
    if form.activation is None:
        return {}
    norm: dict[str, Json] = {} if form.norm_epsilon is None else {"norm_epsilon": form.norm_epsilon}
    return {"activation": name_activation(form.activation)} | norm


class ExportedHead(NamedTuple):
    """A head of a run: what is said of it, its task, the model of that task, and the path before its parameters."""

    export: "AnyExport"
    task: Task
    model: nnx.Module
    prefix: str


class Export(Generic[TaskSettings, Example, Prediction]):
    """Says how the model of a run is exported. By default transformers has a class for it, which says all.

    Attributes:
      labels_words: whether the head labels words.
    """

    labels_words: bool = False

    def __init__(self, run: RunFacts[TaskSettings]):
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

    def config_fields(self) -> dict[str, Json]:
        """Returns the fields that the task adds to config.json, besides the labels."""
        return dict(self.run.tuned)

    def describe_head(self) -> dict[str, Json]:
        """Returns what heads.json says of the head, besides its task and its labels."""
        return {}

    def describe_reading(self) -> dict[str, Json]:
        """Returns what heads.json says of how input becomes windows."""
        return {}

    def to_transformers(self, task: Task, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, by path, with which transformers' class computes the values of `Task.logits`."""
        return parameters

    def torch_inputs(self, windows: Encoded, numbers: range) -> dict[str, np.ndarray] | None:
        """Returns the arguments of transformers' class for consecutive windows; None for windows of text."""
        return None

    def decoding_tensors(self, task: Task, model: nnx.Module) -> dict[str, np.ndarray]:
        """Returns the arrays by which labels are decoded from logits, besides the linear layer."""
        return {}

    def list_heads(self, task: Task, model: nnx.Module) -> dict[str, ExportedHead]:
        """Returns the heads of the run by name."""
        return {self.head_name: ExportedHead(self, task, model, "head/")}

    def loader_input(self, example: Example) -> tuple[object, ...]:
        """Returns the arguments for which the loader of an export answers an example; () if it cannot."""
        return ()

    def loader_answers(self, prediction: Prediction, answer: Answer) -> dict[str, HeadAnswer]:
        """Returns what the loader must answer, by head.

        Args:
          prediction: the evaluator's prediction for an example.
          answer: the same, as `Answers.render` returns it.
        """
        return {}


AnyExport: TypeAlias = Export[sections.Settings, Any, Any]  # of a run, whichever its task
