"""Defines the shape of an MPNet, and reads and writes the config.json of its checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import check_model_type, read_activation, read_rate, read_width_and_heads
from jaxft.layers.transformer.encoder_layer import EncoderShape
from jaxft.models.model_config import ModelConfig, check_shape, read_fields, write_fields

# The first position of a text has the embedding after that of the padding token, which is 1 in all checkpoints.
FIRST_POSITION = 2
# transformers computes this many buckets of distances, whatever a config.json says.
BUCKETS = 32


@dataclasses.dataclass(frozen=True)
class MPNetConfig(ModelConfig, EncoderShape):
    """The shape of an MPNet. The defaults are those of transformers' MPNetConfig.

    `num_buckets` is the number of rows in the table of relative biases, of which `BUCKETS` are used. The other fields
    are explained in `ModelConfig` and `EncoderShape`.

    Raises:
      ValueError: the shape is impossible.
    """

    model_type: ClassVar[str] = "mpnet"

    vocab_size: int = 30527
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512 - FIRST_POSITION
    num_buckets: int = BUCKETS
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        Raises:
          UserError: the model_type is not MPNet's, or a value cannot be.
        """
        check_model_type(hf_config, "mpnet", display_name="MPNet")
        values = read_fields(hf_config, HF_KEYS)
        read_width_and_heads(hf_config, "hidden_size", "num_attention_heads")
        values["activation"] = read_activation(hf_config, "hidden_act", "gelu")
        for name, least in (("max_positions", FIRST_POSITION + 1), ("num_buckets", BUCKETS)):
            if values.get(name, least) < least:
                raise UserError(
                    f"config.json: {HF_KEYS[name]} is {values[name]}; expected {least} or more, as transformers needs"
                )
        if "max_positions" in values:
            values["max_positions"] -= FIRST_POSITION
        return cls(**values)

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        return write_fields(self, HF_KEYS) | {HF_KEYS["max_positions"]: self.max_positions + FIRST_POSITION}


# jaxft's name of a field -> its key in config.json.
HF_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_buckets": "relative_attention_num_buckets",
    "activation": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}


def make_new_config(fields: Mapping[str, object], max_length: int, vocab_size: int) -> dict[str, object]:
    """Returns the config.json of a new MPNet with `fields`. Missing fields have the values of mpnet-base."""
    del max_length, vocab_size  # a new MPNet has no tokenizer yet, and its fields set its positions
    return {"model_type": "mpnet", "max_position_embeddings": 514, "layer_norm_eps": 1e-5, **fields}


def read_head_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head, the backbone's rate."""
    return read_rate(hf_config, ("hidden_dropout_prob",), default=0.1)
