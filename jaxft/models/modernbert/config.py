"""Defines the shape of a ModernBERT, and how the config.json of its checkpoints says it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import (
    check_model_type,
    check_values,
    name_activation,
    read_activation,
    read_rate,
    read_width_and_heads,
)
from jaxft.layers.attention.interface import EVERYTHING, Feature, Visibility
from jaxft.models.model_config import ModelConfig, check_shape, read_count, read_fields, write_fields

GLOBAL, LOCAL = "full_attention", "sliding_attention"  # the types of layers, as transformers names them

# jaxft's name of a field -> its key in config.json. Layer types and thetas have two forms, and are read apart.
HF_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "local_attention": "local_attention",
    "activation": "hidden_activation",
    "layer_norm_eps": "norm_eps",
    "has_attention_bias": "attention_bias",
    "has_mlp_bias": "mlp_bias",
    "has_norm_bias": "norm_bias",
    "embedding_dropout": "embedding_dropout",
    "attention_dropout": "attention_dropout",
    "mlp_dropout": "mlp_dropout",
    "initializer_range": "initializer_range",
    "ties_word_embeddings": "tie_word_embeddings",
    "has_decoder_bias": "decoder_bias",
    "has_classifier_bias": "classifier_bias",
}
_SUPPORTED_VALUES = {"is_decoder": False, "is_causal": False, "add_cross_attention": False}
# Keys of config.json that a user may set for a new model.
NEW_MODEL_FIELDS = (
    *HF_KEYS.values(),
    *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
    *("classifier_activation", "classifier_pooling"),
)


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(ModelConfig):
    """The shape of a ModernBERT. The defaults are those of transformers' ModernBertConfig, which are ModernBERT-base's.

    Attributes:
      layer_types: `GLOBAL` or `LOCAL` for each layer; if there are more layers, they begin again.
      local_attention: the width of a local layer's window. A query sees half as many positions, rounded down, before
        and as many after it.
      global_theta, local_theta: theta of RoPE in layers of each type.
      has_attention_bias, has_mlp_bias, has_norm_bias, has_decoder_bias, has_classifier_bias: whether the linear layers
        of attention and of the MLP, all norms, the output layer of a masked language model, and the dense layer of
        heads have biases.
      classifier_activation: the activation in heads.
      classifier_pooling: "cls" or "mean", how a text's states become one vector.

    The other fields are explained in `ModelConfig`, and in transformers under their keys.

    Raises:
      ValueError: the shape is impossible.
    """

    model_type: ClassVar[str] = "modernbert"
    display_name: ClassVar[str] = "ModernBERT"

    vocab_size: int = 50368
    hidden_size: int = 768
    num_layers: int = 22
    num_heads: int = 12
    intermediate_size: int = 1152
    max_positions: int = 8192
    layer_types: tuple[str, ...] = (GLOBAL, LOCAL, LOCAL)
    local_attention: int = 128
    global_theta: float = 160_000.0
    local_theta: float = 10_000.0
    activation: str = "gelu"
    layer_norm_eps: float = 1e-5
    has_attention_bias: bool = False
    has_mlp_bias: bool = False
    has_norm_bias: bool = False
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    initializer_range: float = 0.02
    ties_word_embeddings: bool = True
    has_decoder_bias: bool = True
    has_classifier_bias: bool = False
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)
        if self.head_width % 2:
            raise ValueError(f"hidden_size / num_heads is {self.head_width}; RoPE turns pairs of features")

    @property
    def head_width(self) -> int:
        """Returns d, the width of a head."""
        return self.hidden_size // self.num_heads

    @property
    def type_of_each_layer(self) -> tuple[str, ...]:
        """Returns `GLOBAL` or `LOCAL` for each layer."""
        return tuple(self.layer_types[i % len(self.layer_types)] for i in range(self.num_layers))

    @property
    def thetas(self) -> Mapping[str, float]:
        """Returns theta of RoPE by type of layer."""
        return {GLOBAL: self.global_theta, LOCAL: self.local_theta}

    @property
    def attention_features(self) -> frozenset[Feature]:
        """Returns what its layers ask of attention."""
        return frozenset({Feature.WINDOW}) if LOCAL in self.type_of_each_layer else frozenset()

    @property
    def visibilities(self) -> tuple[Visibility, ...]:
        """Returns which positions each layer sees."""
        window = Visibility(window=self.local_attention // 2)
        return tuple(window if layer == LOCAL else EVERYTHING for layer in self.type_of_each_layer)

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json, in either form of layer types and thetas.

        Raises:
          UserError: the model_type is not ModernBERT's, a value cannot be, or an option would change the meaning of the
            weights.
        """
        check_model_type(hf_config, cls.model_type, display_name=cls.display_name)
        check_values(hf_config, _SUPPORTED_VALUES)
        values = read_fields(hf_config, HF_KEYS)
        width, heads = read_width_and_heads(hf_config, "hidden_size", "num_attention_heads")
        if width // heads % 2:
            raise UserError(
                f"config.json: hidden_size {width} and num_attention_heads {heads} give heads of width "
                f"{width // heads}; expected an even width, because rotary position embeddings turn pairs of features"
            )
        values["activation"] = read_activation(hf_config, "hidden_activation", "gelu")
        values["classifier_activation"] = read_activation(hf_config, "classifier_activation", "gelu")
        pooling = hf_config.get("classifier_pooling", cls.classifier_pooling)
        if pooling not in ("cls", "mean"):
            raise UserError(
                f"config.json: classifier_pooling is {json.dumps(pooling)[:60]}; expected 'cls' or 'mean'"
            )
        values["layer_types"] = _read_layer_types(hf_config, values.get("num_layers", cls.num_layers))
        global_theta = _read_theta(hf_config, GLOBAL, "global_rope_theta", cls.global_theta)
        local_theta = _read_theta(hf_config, LOCAL, "local_rope_theta", cls.local_theta)
        return cls(
            **values, classifier_pooling=str(pooling), global_theta=global_theta, local_theta=local_theta
        )

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        ropes = {name: {"rope_type": "default", "rope_theta": theta} for name, theta in self.thetas.items()}
        return write_fields(self, HF_KEYS) | {
            "layer_types": list(self.type_of_each_layer),
            "rope_parameters": ropes,
            "classifier_activation": name_activation(self.classifier_activation),
            "classifier_pooling": self.classifier_pooling,
        }


def _read_layer_types(hf_config: Mapping[str, object], num_layers: int) -> tuple[str, ...]:
    """Returns the shortest period of layer types: of a list of all, or else of each n-th layer that is global."""
    types: Any = hf_config.get("layer_types")
    if types is None:
        every = read_count(hf_config, "global_attn_every_n_layers", most=1000, default=3)
        types = [LOCAL if layer % every else GLOBAL for layer in range(num_layers)]
    is_for_all = isinstance(types, list) and len(types) == num_layers
    if not is_for_all or any(name not in (GLOBAL, LOCAL) for name in types):
        raise UserError(
            f"config.json: layer_types is {json.dumps(types)[:60]}; expected {GLOBAL!r} or {LOCAL!r} for each of "
            f"{num_layers} layers"
        )
    period = next(n for n in range(1, num_layers + 1) if types[n:] == types[: num_layers - n])
    return tuple(types[:period])


def _read_theta(hf_config: Mapping[str, object], layer_type: str, old_key: str, default: float) -> float:
    """Returns theta of RoPE in layers of a type: from `rope_parameters`, or else from the key of older versions."""
    parameters: Any = hf_config.get("rope_parameters") or {}
    rope = parameters.get(layer_type) or {} if isinstance(parameters, Mapping) else None
    if not isinstance(rope, Mapping):
        raise UserError(
            f"config.json: rope_parameters is {json.dumps(parameters)[:60]}; expected values by type of layer"
        )
    scaling = hf_config.get("rope_scaling")
    rope = {**rope, **(scaling if isinstance(scaling, Mapping) else {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"config.json: rope_type is {json.dumps(kind)[:60]}, but only 'default' is supported")
    value, key = (
        (rope["rope_theta"], "rope_theta") if "rope_theta" in rope else (hf_config.get(old_key), old_key)
    )
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        raise UserError(
            f"config.json: {key} is {json.dumps(value)[:60]}; expected a number above 0 and at most 1e9"
        )
    return float(value)


def read_head_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the rate of dropout in a task's head."""
    return read_rate(hf_config, ("classifier_dropout",), default=0.0)
