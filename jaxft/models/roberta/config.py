"""Defines the shapes of RoBERTa, XLM-R and CamemBERT, and how the config.json of their checkpoints says them."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxft.errors import UserError
from jaxft.models.encoder_family import ENCODER_KEYS, EncoderConfig


@dataclasses.dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """The shape of a RoBERTa. The defaults are those of transformers' RobertaConfig.

    Attributes:
      padding_id: the id of the padding token. The embedding of a text's first position is the one after that number,
        and `max_position_embeddings` in config.json counts those before it too.
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

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json; see `EncoderConfig.from_hf`."""
        positions = cls.max_positions + cls.padding_id + 1
        config = super().from_hf({"max_position_embeddings": positions, **hf_config})
        if config.max_positions <= config.first_position:
            raise UserError(
                f"config.json: max_position_embeddings is {config.max_positions} and pad_token_id is "
                f"{config.padding_id}, behind which no position is left; expected more positions"
            )
        return dataclasses.replace(config, max_positions=config.max_positions - config.first_position)

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        return super().to_hf() | {"max_position_embeddings": self.max_positions + self.first_position}


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
