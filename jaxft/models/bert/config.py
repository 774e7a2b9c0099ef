"""Defines the shape of a BERT, and reads and writes the config.json of its checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxft.hub.fields import (
    check_model_type,
    check_values,
    read_activation,
    read_rate,
    read_width_and_heads,
)
from jaxft.layers.transformer.encoder_layer import EncoderShape
from jaxft.models.model_config import ModelConfig, check_shape, read_fields, write_fields


@dataclasses.dataclass(frozen=True)
class BertConfig(ModelConfig, EncoderShape):
    """The shape of a BERT. The defaults are those of transformers' BertConfig, which are BERT-base's.

    `activation` is a key of `layers.activations.ACTIVATIONS`. The other fields are explained in `ModelConfig`, and in
    transformers' BertConfig under the names in `HF_KEYS`.

    Raises:
      ValueError: the shape is impossible.
    """

    model_type: ClassVar[str] = "bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    ties_word_embeddings: bool = True

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        Raises:
          UserError: the model_type is not BERT's, or an option would change the meaning of the weights.
        """
        check_model_type(hf_config, "bert", display_name="BERT")
        check_values(
            hf_config,
            {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
        )
        values = read_fields(hf_config, HF_KEYS)
        read_width_and_heads(hf_config, "hidden_size", "num_attention_heads")
        values["activation"] = read_activation(hf_config, "hidden_act", "gelu")
        return cls(**values)

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        return write_fields(self, HF_KEYS)


# jaxft's name of a field -> its key in config.json.
HF_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "ties_word_embeddings": "tie_word_embeddings",
}


def make_new_config(fields: Mapping[str, object], max_length: int, vocab_size: int) -> dict[str, object]:
    """Returns the config.json of a new BERT with `fields`. Missing fields have BertConfig's defaults, BERT-base's."""
    del max_length, vocab_size  # a new BERT has no tokenizer yet, and its fields set its positions
    return {"model_type": "bert", **fields}


def read_classifier_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head: `classifier_dropout`, or if unset the backbone's rate."""
    return read_rate(hf_config, ("classifier_dropout", "hidden_dropout_prob"), default=0.1)
