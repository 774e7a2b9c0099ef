"""Defines the facts about a finished run that tasks use to write answers and model cards."""

import dataclasses
from typing import Any

from jaxft.config.sections import Settings
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import family_of


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The facts of a run without its folder.

    Attributes:
      config: the run's settings.
      checkpoint: config.json and tokenizer of the trained model.
      labels: the names of the head's outputs.
      tuned: the values that the task chose on the dev split; empty until the run has ended.
    """

    config: Settings
    checkpoint: PretrainedModel
    labels: list[str]
    tuned: dict[str, Any]

    @property
    def backbone_name(self) -> str:
        """The name of the network in its usual spelling."""
        return family_of(self.checkpoint.hf_config).display_name
