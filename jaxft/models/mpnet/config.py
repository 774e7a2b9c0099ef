"""Defines the shape of an MPNet, and how the config.json of its checkpoints says it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxft.hub.fields import read_rate
from jaxft.layers.attention.interface import Feature
from jaxft.models.encoder_family import ENCODER_KEYS, EncoderConfig

# What transformers computes, whatever a config.json says: into how many buckets distances go, and the padding token.
BUCKETS = 32
_PADDING_ID = 1


@dataclasses.dataclass(frozen=True)
class MPNetConfig(EncoderConfig):
    """The shape of an MPNet. The defaults are those of transformers' MPNetConfig."""

    model_type: ClassVar[str] = "mpnet"
    display_name: ClassVar[str] = "MPNet"
    hf_keys: ClassVar[Mapping[str, str]] = {k: v for k, v in ENCODER_KEYS.items() if k != "type_vocab_size"}
    supported_values: ClassVar[Mapping[str, object]] = {"relative_attention_num_buckets": BUCKETS}

    vocab_size: int = 30527
    max_positions: int = 510

    @property
    def attention_features(self) -> frozenset[Feature]:
        """Returns what its layers ask of attention."""
        return frozenset({Feature.RELATIVE_BIAS})

    @property
    def first_position(self) -> int:
        """Returns the number of the embedding of a text's first position."""
        return _PADDING_ID + 1


def read_head_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head, the backbone's rate."""
    return read_rate(hf_config, ("hidden_dropout_prob",), default=0.1)
