"""Defines the shapes of RoBERTa, XLM-R and CamemBERT, and how the config.json of their checkpoints says them."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxft.models.encoder_family import ENCODER_KEYS, EncoderConfig


@dataclasses.dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """The shape of a RoBERTa. The defaults are those of transformers' RobertaConfig.

    Attributes:
      padding_id: the id of the padding token. The embedding of a text's first position is the one after that number.
    """

    model_type: ClassVar[str] = "roberta"
    display_name: ClassVar[str] = "RoBERTa"
    hf_keys: ClassVar[Mapping[str, str]] = ENCODER_KEYS | {"padding_id": "pad_token_id"}

    vocab_size: int = 50265
    max_positions: int = 510
    type_vocab_size: int = 2
    padding_id: int = 1

    @property
    def first_position(self) -> int:
        """Returns the number of the embedding of a text's first position."""
        return self.padding_id + 1


@dataclasses.dataclass(frozen=True)
class XLMRobertaConfig(RobertaConfig):
    """The shape of an XLM-R. The defaults are those of transformers' XLMRobertaConfig."""

    model_type: ClassVar[str] = "xlm-roberta"
    display_name: ClassVar[str] = "XLM-RoBERTa"

    vocab_size: int = 30522


@dataclasses.dataclass(frozen=True)
class CamembertConfig(RobertaConfig):
    """The shape of a CamemBERT. The defaults are those of transformers' CamembertConfig."""

    model_type: ClassVar[str] = "camembert"
    display_name: ClassVar[str] = "CamemBERT"

    vocab_size: int = 30522
