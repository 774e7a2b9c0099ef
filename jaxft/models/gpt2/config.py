"""Defines the shape of a GPT-2, and reads and writes the config.json of its checkpoints."""

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
from jaxft.layers.attention.interface import Feature
from jaxft.models.model_config import ModelConfig, check_shape, read_fields, write_fields


@dataclasses.dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """The shape of a GPT-2. The defaults are those of transformers' GPT2Config, which are GPT-2 small's.

    `activation` is a key of `layers.activations.ACTIVATIONS`. `scale_by_inverse_layer` divides a layer's attention
    scores by its number, from 1. The other fields are explained in `ModelConfig`, and in transformers' GPT2Config under
    the names in `HF_KEYS`.

    Raises:
      ValueError: the shape is impossible.
    """

    model_type: ClassVar[str] = "gpt2"

    vocab_size: int = 50257
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 1024
    activation: str = "gelu_tanh"
    layer_norm_eps: float = 1e-5
    embedding_dropout: float = 0.1
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    scale_by_inverse_layer: bool = False

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)

    @property
    def attention_features(self) -> frozenset[Feature]:
        """Returns what its layers ask of attention."""
        return frozenset({Feature.CAUSAL})

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        `reorder_and_upcast_attn` may have either value, because attention scores are always computed in float32.

        Raises:
          UserError: the model_type is not GPT-2's, or an option would change the meaning of the weights.
        """
        check_model_type(hf_config, "gpt2", display_name="GPT-2")
        check_values(
            hf_config, {"scale_attn_weights": True, "add_cross_attention": False, "tie_word_embeddings": True}
        )
        if hf_config.get("n_inner", ...) is None:  # as transformers writes it
            hf_config = {key: value for key, value in hf_config.items() if key != "n_inner"}
        values = read_fields(hf_config, HF_KEYS)
        size, _ = read_width_and_heads(hf_config, "n_embd", "n_head")
        values["activation"] = read_activation(hf_config, "activation_function", "gelu_new")
        values.setdefault("intermediate_size", 4 * size)
        return cls(**values)

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        return write_fields(self, HF_KEYS)


# jaxft's name of a field -> its key in config.json.
HF_KEYS = {
    "vocab_size": "vocab_size",
    "max_positions": "n_positions",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "intermediate_size": "n_inner",
    "activation": "activation_function",
    "embedding_dropout": "embd_pdrop",
    "hidden_dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "scale_by_inverse_layer": "scale_attn_by_inverse_layer_idx",
}
# Keys of config.json that a user may set for a new model. Its tokenizer says how large its vocabulary is.
NEW_MODEL_FIELDS = tuple(key for key in HF_KEYS.values() if key != "vocab_size")


def make_new_config(fields: Mapping[str, object], max_length: int, vocab_size: int) -> dict[str, object]:
    """Returns the config.json of a new GPT-2 with `fields`. Without `n_positions` it has `max_length` positions."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": max_length,
        **fields,
        "vocab_size": vocab_size,
    }


def read_classifier_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head, as in GPT2ForTokenClassification; 0.1 if no field sets it."""
    return read_rate(hf_config, ("classifier_dropout", "hidden_dropout"), default=0.1)
