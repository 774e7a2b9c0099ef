"""Defines the facts about a finished run that tasks use to write answers and model cards."""

import dataclasses
from collections.abc import Mapping
from typing import Generic, TypeAlias, TypeVar

from jaxft.config import sections
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import family_of
from jaxft.tasks.base import Json

TaskSettings = TypeVar("TaskSettings", bound=sections.Settings, covariant=True)  # those of the run's task


@dataclasses.dataclass(frozen=True)
class RunFacts(Generic[TaskSettings]):
    """The facts of a run without its folder.

    Attributes:
      config: the run's settings.
      checkpoint: config.json and tokenizer of the trained model.
      labels: the names of the head's outputs.
      tuned: the values that the task chose on the dev split; empty until the run has ended.
    """

    config: TaskSettings
    checkpoint: PretrainedModel
    labels: list[str]
    tuned: Mapping[str, Json]

    @property
    def backbone_name(self) -> str:
        """The name of the network in its usual spelling."""
        return family_of(self.checkpoint.hf_config).display_name


AnyRunFacts: TypeAlias = RunFacts[sections.Settings]  # of a run, whichever its task
