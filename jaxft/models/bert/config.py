"""Defines the shape of a BERT, and how the config.json of its checkpoints says it."""

import dataclasses
from typing import ClassVar

from jaxft.models.encoder_family import EncoderConfig


@dataclasses.dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """The shape of a BERT. The defaults are those of transformers' BertConfig, which are BERT-base's."""

    model_type: ClassVar[str] = "bert"
    display_name: ClassVar[str] = "BERT"

    type_vocab_size: int = 2
