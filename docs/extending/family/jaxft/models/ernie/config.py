"""Defines the shape of an ERNIE, and how the config.json of its checkpoints says it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxft.models.encoder_family import EncoderConfig


@dataclasses.dataclass(frozen=True)
class ErnieConfig(EncoderConfig):
    """The shape of an ERNIE. The defaults are those of transformers' ErnieConfig; `EncoderConfig` has the others."""

    model_type: ClassVar[str] = "ernie"
    display_name: ClassVar[str] = "ERNIE"
    supported_values: ClassVar[Mapping[str, object]] = {
        **EncoderConfig.supported_values,
        "use_task_id": False,
    }

    type_vocab_size: int = 2
