"""Defines the shape of a DeBERTa-v2 or -v3, and how the config.json of its checkpoints says it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.hub.fields import check_values, name_activation, read_activation, read_rate
from jaxft.layers.attention.interface import Feature
from jaxft.models.encoder_family import ENCODER_KEYS, EncoderConfig
from jaxft.models.model_config import read_count, read_fields, write_fields

# The names in config.json of what distances add to scores: the product of a query, or of a key, with a distance.
CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"
_PRODUCTS = (CONTENT_TO_POSITION, POSITION_TO_CONTENT)
_NORM = "layer_norm"
# Fields that other families have not, or whose values need more than a range, and their keys.
_SPECIAL_KEYS = {
    "type_vocab_size": "type_vocab_size",
    "embedding_size": "embedding_size",
    "max_distance": "max_relative_positions",
    "bucket_count": "position_buckets",
    "products": "pos_att_type",
    "normalizes_distances": "norm_rel_ebd",
    "conv_size": "conv_kernel_size",
    "conv_groups": "conv_groups",
    "conv_activation": "conv_act",
    "pooler_activation": "pooler_hidden_act",
}
# Fields whose keys a config.json has only if they differ from the default.
_OPTIONAL = (
    *("embedding_size", "bucket_count", "shares_projections", "normalizes_distances"),
    *("conv_size", "conv_groups", "conv_activation"),
)


@dataclasses.dataclass(frozen=True)
class DebertaV2Config(EncoderConfig):
    """The shape of a DeBERTa-v2, DeBERTa-v3 or mDeBERTa. The defaults are those of transformers' DebertaV2Config.

    Attributes:
      embedding_size: E, the width of embeddings; None for `hidden_size`. If it differs, a linear layer follows them.
      has_position_embeddings: whether the sum of embeddings has one of the position.
      has_distance_embeddings: whether there are embeddings of distances.
      products: what distances add to scores: some of "c2p" and "p2c", in this order.
      max_distance: the distance that the last bucket reaches; None for `max_positions`.
      bucket_count: the number of buckets of distances before, and of those after a query; None if each distance up to
        `max_distance` has its own embedding.
      normalizes_distances: whether a norm follows the embeddings of distances.
      shares_projections: whether distances have the keys and queries of words, and no projections of their own.
      conv_size: the number of positions that the convolution next to the first layer reads, which is odd; 0 for none.
      conv_groups: the number of groups of channels in the convolution, which divides `hidden_size`.
      conv_activation, pooler_activation: keys of `layers.activations.ACTIVATIONS`.
      pooler_dropout: the dropout rate before the dense layer of the head of texts.
      has_legacy_head: whether the head of masked words is transformers' LegacyDebertaV2OnlyMLMHead, which has other
        tensors, and words may be scored by a layer of its own.
    """

    model_type: ClassVar[str] = "deberta-v2"
    display_name: ClassVar[str] = "DeBERTa-v2"
    hf_keys: ClassVar[Mapping[str, str]] = {
        **ENCODER_KEYS,
        "has_position_embeddings": "position_biased_input",
        "has_distance_embeddings": "relative_attention",
        "shares_projections": "share_att_key",
        "pooler_dropout": "pooler_dropout",
        "has_legacy_head": "legacy",
        **_SPECIAL_KEYS,
    }

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_layers: int = 24
    num_heads: int = 24
    intermediate_size: int = 6144
    layer_norm_eps: float = 1e-7
    embedding_size: int | None = None
    has_position_embeddings: bool = True
    has_distance_embeddings: bool = False
    products: tuple[str, ...] = ()
    max_distance: int | None = None
    bucket_count: int | None = None
    normalizes_distances: bool = False
    shares_projections: bool = False
    conv_size: int = 0
    conv_groups: int = 1
    conv_activation: str = "tanh"
    pooler_dropout: float = 0.0
    pooler_activation: str = "gelu"
    has_legacy_head: bool = True

    @property
    def attention_features(self) -> frozenset[Feature]:
        """Returns what its layers ask of attention."""
        return frozenset({Feature.RELATIVE_PRODUCTS} if self.products else ())

    @property
    def relative_products(self) -> int:
        """Returns the number of products with distances that scores add."""
        return len(self.products)

    @property
    def largest_distance(self) -> int:
        """Returns the distance that the last bucket reaches."""
        return self.max_distance or self.max_positions

    @property
    def span(self) -> int:
        """Returns half of the number of embeddings of distances."""
        return self.bucket_count or self.largest_distance

    @classmethod
    def read_values(cls, hf_config: Mapping[str, object]) -> dict[str, Any]:
        """Returns the values of the fields in a config.json. Raises `UserError` for one that cannot be."""
        keys = {name: key for name, key in cls.hf_keys.items() if name not in _SPECIAL_KEYS}
        values = read_fields(hf_config, keys)
        size, heads = values["hidden_size"], values["num_heads"]
        check_values(hf_config, {"pooler_hidden_size": size, "attention_head_size": size // heads})
        read: dict[str, Any] = {
            "type_vocab_size": read_count(hf_config, "type_vocab_size", least=0, most=2**16),
            "embedding_size": read_count(hf_config, "embedding_size", most=2**17, default=size),
            "max_distance": read_count(hf_config, "max_relative_positions", least=-1, most=2**24),
            "bucket_count": read_count(hf_config, "position_buckets", least=-1, most=2**24, default=-1),
            "products": _read_words(hf_config, "pos_att_type", _PRODUCTS),
            "normalizes_distances": bool(_read_words(hf_config, "norm_rel_ebd", (_NORM,))),
            "conv_size": read_count(hf_config, "conv_kernel_size", least=0, most=2**10, default=0),
            "conv_groups": read_count(hf_config, "conv_groups", most=2**17, default=1),
            "conv_activation": read_activation(hf_config, "conv_act", "tanh"),
            "pooler_activation": read_activation(hf_config, "pooler_hidden_act", "gelu"),
        }
        values["ties_word_embeddings"] |= not values["has_legacy_head"]  # whatever config.json says
        if read["embedding_size"] == size:
            read["embedding_size"] = None
        for name in ("max_distance", "bucket_count"):  # -1 stands for none
            read[name] = read[name] if read[name] > 0 else None
        _check(hf_config, values | read)
        return values | read

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        fields = write_fields(self, self.hf_keys) | {
            "max_relative_positions": self.max_distance or -1,
            "pos_att_type": list(self.products) or None,
            "norm_rel_ebd": _NORM if self.normalizes_distances else "none",
            "conv_act": name_activation(self.conv_activation),
            "pooler_hidden_act": name_activation(self.pooler_activation),
        }
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        unset = {self.hf_keys[name] for name in _OPTIONAL if getattr(self, name) == defaults[name]}
        return {key: value for key, value in fields.items() if key not in unset}


def _read_words(hf_config: Mapping[str, object], key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Returns those of the `known` words that a list, or a text with "|" between words, has at `key`.

    Raises:
      UserError: the value is no such thing, or has another word than those and "none".
    """
    value = hf_config.get(key) or []
    words = value.lower().split("|") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        words = [str(value)]
    words = [word.strip() for word in words]
    if unknown := set(words) - {*known, "none"}:
        raise UserError(
            f"config.json: {key} has {sorted(unknown)[0][:60]!r}; expected some of {known}, or none"
        )
    return tuple(word for word in known if word in words)


def _check(hf_config: Mapping[str, object], values: Mapping[str, Any]) -> None:
    """Raises `UserError` for fields that do not go together."""
    size, buckets = values["conv_size"], values["bucket_count"]
    if size and size % 2 == 0:
        raise UserError(f"config.json: conv_kernel_size is {size}; expected an odd number")
    if values["hidden_size"] % values["conv_groups"]:
        raise UserError(
            f"config.json: conv_groups is {values['conv_groups']}; expected a divisor of hidden_size, "
            f"{values['hidden_size']}"
        )
    longest = values["max_distance"] or values["max_positions"]
    if buckets and not 1 < buckets < 2 * longest - 2:
        raise UserError(
            f"config.json: position_buckets is {buckets}; expected 2 or more, and less than {2 * longest - 2}, for "
            f"max_relative_positions of {longest}"
        )
    for name in ("products", "normalizes_distances"):
        if values[name] and not values["has_distance_embeddings"]:
            key = _SPECIAL_KEYS[name]
            raise UserError(
                f"config.json: {key} is {hf_config[key]!r} without relative_attention; that is not supported"
            )


def read_head_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before a task's head, the backbone's rate."""
    return read_rate(hf_config, ("hidden_dropout_prob",), default=0.1)


def read_text_dropout(hf_config: Mapping[str, object]) -> float:
    """Returns the dropout rate before the last layer of a head of texts: `cls_dropout`, or the backbone's rate."""
    return read_rate(hf_config, ("cls_dropout", "hidden_dropout_prob"), default=0.1)
