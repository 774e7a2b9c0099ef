"""Defines what every family's config has in common, and converts the fields of config.json by a table."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from jaxft.layers.activations import ACTIVATIONS


class ModelConfig(Protocol):
    """The shape of a backbone and its dropout rates: a frozen dataclass, one class a family.

    Attributes:
      model_type: the family's name, as in the `model_type` of config.json.
      vocab_size: the number of rows in the word embeddings.
      hidden_size: D, the width of hidden states.
      num_layers: the number of layers.
      num_heads: the number of attention heads, which divides `hidden_size`.
      max_positions: the number of positions in a row at most.
      attention_dropout: the dropout rate of attention weights.
      initializer_range: the standard deviation of new weights.
    """

    model_type: ClassVar[str]
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    attention_dropout: float
    initializer_range: float


def read_fields(hf_config: Mapping[str, Any], hf_keys: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of the fields that a config.json has.

    Args:
      hf_config: the config.json.
      hf_keys: jaxft's name -> the key in config.json.
    """
    return {name: hf_config[key] for name, key in hf_keys.items() if key in hf_config}


def check_shape(*, hidden_size: int, num_heads: int, activation: str) -> None:
    """Raises ValueError for a shape that no backbone can have."""
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {sorted(ACTIVATIONS)}")
