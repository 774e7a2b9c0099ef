"""Defines the shape of a DistilBERT, and how the config.json of its checkpoints says it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxft.hub.fields import read_rate
from jaxft.models.encoder_family import EncoderConfig


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """The shape of a DistilBERT. The defaults are those of transformers' DistilBertConfig.

    `layer_norm_eps` is 1e-12 in all of them. `sinusoidal_pos_embds` in config.json may have either value: it says how
    position embeddings began, and a checkpoint has them.
    """

    model_type: ClassVar[str] = "distilbert"
    display_name: ClassVar[str] = "DistilBERT"
    hf_keys: ClassVar[Mapping[str, str]] = {
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "activation": "activation",
        "hidden_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "ties_word_embeddings": "tie_word_embeddings",
    }
    supported_values: ClassVar[Mapping[str, object]] = {}

    num_layers: int = 6


def read_token_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the rate of dropout before a head of tokens."""
    return read_rate(hf_config, ("dropout",), default=0.1)


def read_text_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the rate of dropout in a head of texts."""
    return read_rate(hf_config, ("seq_classif_dropout",), default=0.2)


def read_question_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the rate of dropout before a head of questions."""
    return read_rate(hf_config, ("qa_dropout",), default=0.1)
