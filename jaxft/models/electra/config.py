"""Defines the shape of an ELECTRA, and how the config.json of its checkpoints says it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxft.models.encoder_family import ENCODER_KEYS, EncoderConfig


@dataclasses.dataclass(frozen=True)
class ElectraConfig(EncoderConfig):
    """The shape of an ELECTRA. The defaults are those of transformers' ElectraConfig, which are ELECTRA-small's.

    Attributes:
      embedding_size: E, the width of embeddings. If it is not `hidden_size`, a linear layer follows them.
    """

    model_type: ClassVar[str] = "electra"
    display_name: ClassVar[str] = "ELECTRA"
    hf_keys: ClassVar[Mapping[str, str]] = ENCODER_KEYS | {"embedding_size": "embedding_size"}

    embedding_size: int = 128
    hidden_size: int = 256
    num_heads: int = 4
    intermediate_size: int = 1024
    type_vocab_size: int = 2
