"""Holds what families of encoders share: the fields of their config.json, and names of tensors since BERT."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import (
    check_model_type,
    check_values,
    read_activation,
    read_rate,
    read_width_and_heads,
)
from jaxft.hub.weights import WeightRule, make_linear_rules, make_norm_rules
from jaxft.layers.transformer.encoder_layer import EncoderShape
from jaxft.models.family import NewModel
from jaxft.models.model_config import ModelConfig, check_shape, read_fields, write_fields

# jaxft's name of a field -> its key in config.json.
ENCODER_KEYS = {
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


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig, EncoderShape):
    """The shape of an encoder, with BERT-base's values. A family's config adds fields, keys and other defaults.

    Attributes:
      display_name: the family's name in messages.
      hf_keys: jaxft's name of a field -> its key in config.json.
      supported_values: keys of config.json, of which any other value would change the meaning of the weights.
      ties_word_embeddings: whether word embeddings are also the output layer of a masked language model.

    The other fields are explained in `ModelConfig` and `EncoderShape`, and in transformers under their keys.

    Raises:
      ValueError: the shape is impossible.
    """

    display_name: ClassVar[str]
    hf_keys: ClassVar[Mapping[str, str]] = ENCODER_KEYS
    supported_values: ClassVar[Mapping[str, object]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 0
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    ties_word_embeddings: bool = True

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)

    @property
    def reads_token_types(self) -> bool:
        """Returns whether it reads `token_type_ids`: not if all tokens have the only type that there is."""
        return self.type_vocab_size > 1

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        Raises:
          UserError: the model_type is not the family's, a value cannot be, or an option would change the meaning of the
            weights.
        """
        check_model_type(hf_config, cls.model_type, display_name=cls.display_name)
        check_values(hf_config, cls.supported_values)
        hf_config, keys = {**cls().to_hf(), **hf_config}, cls.hf_keys
        values = cls.read_values(hf_config)
        read_width_and_heads(hf_config, keys["hidden_size"], keys["num_heads"])
        values["activation"] = read_activation(hf_config, keys["activation"], "gelu")
        config = cls(**values)  # config.json also counts the positions before the first one of a text
        if config.max_positions <= config.first_position:
            raise UserError(
                f"config.json: {keys['max_positions']} is {config.max_positions}, but the first position of a text is "
                f"number {config.first_position}, after that of the padding token (pad_token_id); expected more"
            )
        return dataclasses.replace(config, max_positions=config.max_positions - config.first_position)

    @classmethod
    def read_values(cls, hf_config: Mapping[str, object]) -> dict[str, Any]:
        """Returns the values of the fields in a config.json. Raises `UserError` for one that cannot be."""
        return read_fields(hf_config, cls.hf_keys)

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        positions = {self.hf_keys["max_positions"]: self.first_position + self.max_positions}
        return write_fields(self, self.hf_keys) | positions


def describe_new_encoder(
    config_class: type[EncoderConfig], base: Mapping[str, object], *, name: str | None = None
) -> NewModel:
    """Returns how new models of a family are made. They can be planned; their tokenizers cannot be trained.

    Args:
      config_class: the family's config.
      base: the fields of the config.json of the family's base model that differ from the defaults of its config.
      name: as in `NewModel`.
    """
    base = {"model_type": config_class.model_type, **base}
    return NewModel.from_base(config_class.hf_keys.values(), base, name=name)


def read_classifier_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head: `classifier_dropout`, or if unset the backbone's rate."""
    return read_rate(hf_config, ("classifier_dropout", "hidden_dropout_prob"), default=0.1)


def make_encoder_rules(prefix: str) -> list[WeightRule]:
    """Returns the rules of embeddings and layers whose tensors have the names of transformers' BertModel.

    Args:
      prefix: the name of the backbone in classes with a head, such as "bert".
    """
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.encoder.layer.{{layer}}"
    return [
        WeightRule("backbone/embeddings/word/embedding", f"{embeddings}.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", f"{embeddings}.position_embeddings.weight"),
        WeightRule("backbone/embeddings/type/embedding", f"{embeddings}.token_type_embeddings.weight"),
        *make_norm_rules("backbone/embeddings/norm", f"{embeddings}.LayerNorm"),
        *make_linear_rules("backbone/layers/attention/query", f"{layer}.attention.self.query"),
        *make_linear_rules("backbone/layers/attention/key", f"{layer}.attention.self.key"),
        *make_linear_rules("backbone/layers/attention/value", f"{layer}.attention.self.value"),
        *make_linear_rules("backbone/layers/attention/output", f"{layer}.attention.output.dense"),
        *make_norm_rules("backbone/layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{layer}.intermediate.dense"),
        *make_linear_rules("backbone/layers/mlp/down", f"{layer}.output.dense"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{layer}.output.LayerNorm"),
    ]


def make_canonical_names(prefix: str, *modules: str) -> Sequence[tuple[str, str]]:
    """Returns the pairs that turn older names of tensors into today's; see `WeightTable.canonical`.

    Args:
      prefix: the name of the backbone in classes with a head, which a backbone that was saved alone lacks.
      modules: the names of what the backbone is made of.
    """
    return [
        (rf"^({'|'.join(modules)})\.", rf"{prefix}.\1."),
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # converted from TensorFlow by early versions
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ]


def make_text_head_rules() -> list[WeightRule]:
    """Returns the rules of a head of texts with a dense layer, as in transformers' RobertaClassificationHead."""
    return [
        *make_linear_rules("head/dense", "classifier.dense"),
        *make_linear_rules("head", "classifier.out_proj"),
    ]


def make_masked_head_rules(dense: str, norm: str, decoder: str, tied_bias: str) -> list[WeightRule]:
    """Returns the rules of a head of masked tokens, for its tensor names without their last parts.

    Args:
      dense, norm: the layers before the words are scored.
      decoder: the layer that scores them, whose weight is the word embeddings unless config.json says otherwise.
      tied_bias: the full name of the bias if it is so.
    """
    return [
        *make_linear_rules("head/transform", dense),
        *make_norm_rules("head/norm", norm),
        WeightRule("head/bias", tied_bias),
        *make_linear_rules("head/decoder", decoder),
    ]
