"""Defines what every family's config has in common, and converts the fields of config.json by a table."""

import abc
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import name_activation
from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.attention.interface import Feature, Visibility


@dataclasses.dataclass(frozen=True)
class ModelConfig(abc.ABC):
    """The shape of a backbone and its dropout rates. Each family has a subclass, a frozen dataclass too.

    Attributes:
      model_type: the family's name, as in the `model_type` of config.json.
      hidden_size: D, the width of hidden states.
      num_layers: the number of layers.
      num_heads: the number of attention heads, which divides `hidden_size`; 0 if there is no attention.
      attention_dropout: the dropout rate of attention weights.
      initializer_range: the standard deviation of new weights.
      vocab_size: the number of rows in the word embeddings; 0 if the model reads no text.
      max_positions: the number of positions in a row of text at most.
    """

    model_type: ClassVar[str]
    hidden_size: int
    num_layers: int
    num_heads: int
    attention_dropout: float
    initializer_range: float
    vocab_size: int = 0
    max_positions: int = 0

    @property
    def reads_token_types(self) -> bool:
        """Returns whether the backbone reads `token_type_ids`."""
        return False

    @property
    def attention_features(self) -> frozenset[Feature]:
        """Returns what its layers ask of attention, without dropout, which `attention_dropout` says."""
        return frozenset()

    @property
    def visibilities(self) -> tuple[Visibility, ...]:
        """Returns which positions each layer sees."""
        return (Visibility(Feature.CAUSAL in self.attention_features),) * self.num_layers

    @property
    def relative_products(self) -> int:
        """Returns the number of products with positions that the scores of each layer add."""
        return 0

    def count_positions(self, length: int) -> int:
        """Returns the number of positions in a row of `length` slots, if a slot holds a token."""
        return length

    @classmethod
    @abc.abstractmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the shape in a config.json. Raises `UserError` for one that is not the family's, or cannot be."""

    @abc.abstractmethod
    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape."""


# The largest count that a field may have. More is a damaged file, and would take all memory before anybody noticed.
_MOST = {
    "vocab_size": 10**8,
    "hidden_size": 2**17,
    "num_layers": 1000,
    "num_heads": 2**12,
    "intermediate_size": 2**20,
    "max_positions": 2**24,
    "type_vocab_size": 2**16,
    "embedding_size": 2**17,
    "local_attention": 2**24,
    "padding_id": 10**8,
}

MOST_PIXELS = 2**14  # of a side of an image


def read_fields(hf_config: Mapping[str, object], hf_keys: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of the fields that a config.json has.

    Args:
      hf_config: the config.json.
      hf_keys: jaxft's name -> the key in config.json. Fields that are not in `_MOST` are rates of dropout, small
        positive numbers or flags, which their names show.

    Raises:
      UserError: a value is outside of what a model can have.
    """
    values: dict[str, Any] = {name: hf_config[key] for name, key in hf_keys.items() if key in hf_config}
    for name, value in values.items():
        if name in _MOST:
            read_count(hf_config, hf_keys[name], least=0 if name == "padding_id" else 1, most=_MOST[name])
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.endswith("_dropout"):
            is_possible, expected = is_number and 0 <= value < 1, "a rate of 0 or more and below 1"
        elif name in ("layer_norm_eps", "initializer_range"):
            is_possible, expected = is_number and 0 < value <= 100, "a number above 0 and at most 100"
        elif name == "activation":
            is_possible, expected = isinstance(value, str), "a name"
        else:
            is_possible, expected = isinstance(value, bool), "true or false"
        if not is_possible:
            raise UserError(f"config.json: {hf_keys[name]} is {json.dumps(value)[:60]}; expected {expected}")
    return values


def read_count(
    hf_config: Mapping[str, object], key: str, *, least: int = 1, most: int, default: int | None = None
) -> int:
    """Returns the whole number at `key`, or the default. Raises `UserError` if it is not from `least` to `most`."""
    value = hf_config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(
            f"config.json: {key} is {json.dumps(value)[:60]}; expected a whole number from {least} to {most:,}"
        )
    return value


def read_sides(hf_config: Mapping[str, object], key: str) -> tuple[int, int]:
    """Returns the height and the width at `key`, which may be one number for both.

    Raises:
      UserError: they are not 1 to `MOST_PIXELS`.
    """
    value = hf_config[key]
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value, value]
    height, width = (read_count({key: side}, key, most=MOST_PIXELS) for side in sides)
    return height, width


def write_fields(config: ModelConfig, hf_keys: Mapping[str, str]) -> dict[str, object]:
    """Returns the config.json that has the fields of `config` under the keys `hf_keys`, as in `read_fields`."""
    fields = {key: getattr(config, name) for name, key in hf_keys.items()}
    activation = hf_keys["activation"]
    fields[activation] = name_activation(fields[activation])
    return {"model_type": config.model_type, **fields}


def check_shape(*, hidden_size: int, num_heads: int, activation: str) -> None:
    """Raises ValueError for a shape that no backbone can have."""
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {sorted(ACTIVATIONS)}")
