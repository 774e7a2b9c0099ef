"""Defines the shapes of ViT and DeiT, and reads and writes the config.json of their checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import check_model_type, check_values, read_activation, read_width_and_heads
from jaxft.models.model_config import ModelConfig, check_shape, read_fields, read_sides, write_fields


@dataclasses.dataclass(frozen=True)
class ViTConfig(ModelConfig):
    """The shape of a ViT. The defaults are those of transformers' ViTConfig, which are ViT-B/16's.

    Attributes:
      special_tokens: the positions before those of patches: a class token, and in DeiT one for distillation.
      image_size: height and width of images. If a run's images are of another size than the checkpoint's, its
        positions are interpolated when they are loaded; see `resize_positions`.
      patch_size: height and width of a patch.
      intermediate_size: the width within the MLP.
      activation: a key of `layers.activations.ACTIVATIONS`.
      layer_norm_eps: the epsilon of every LayerNorm.
      hidden_dropout: the dropout rate of embeddings, and of what attention and MLP add to `x`.
      has_attention_bias: whether queries, keys and values have biases.

    The other fields are explained in `ModelConfig`.

    Raises:
      ValueError: the shape is impossible.
    """

    model_type: ClassVar[str] = "vit"
    display_name: ClassVar[str] = "ViT"
    special_tokens: ClassVar[int] = 1

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    has_attention_bias: bool = True

    def __post_init__(self):
        """Raises ValueError for a shape that no backbone can have."""
        check_shape(hidden_size=self.hidden_size, num_heads=self.num_heads, activation=self.activation)

    @property
    def grid(self) -> tuple[int, int]:
        """Returns the number of patches along the height and the width of an image."""
        (height, width), (high, wide) = self.image_size, self.patch_size
        return height // high, width // wide

    @property
    def patches(self) -> int:
        """Returns the number of patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def positions(self) -> int:
        """Returns the number of positions of an image."""
        return self.special_tokens + self.patches

    def count_positions(self, length: int) -> int:
        """Returns the number of positions of a row, which holds an image."""
        return self.positions

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        Raises:
          UserError: the model_type is not the family's, or a value cannot be.
        """
        check_model_type(hf_config, cls.model_type, display_name=cls.display_name)
        check_values(hf_config, {"num_channels": 3})
        hf_config = {**cls().to_hf(), **hf_config}
        values = read_fields(hf_config, HF_KEYS)
        values["activation"] = read_activation(hf_config, HF_KEYS["activation"], "gelu")
        read_width_and_heads(hf_config, HF_KEYS["hidden_size"], HF_KEYS["num_heads"])
        values |= {key: read_sides(hf_config, key) for key in SIDES}
        config = cls(**values)
        if config.patches == 0:
            raise UserError(
                f"config.json: image_size is {hf_config['image_size']}, but patch_size {hf_config['patch_size']}; "
                "expected images that are larger than a patch"
            )
        return config

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        sides = {key: getattr(self, key) for key in SIDES}
        return write_fields(self, HF_KEYS) | {
            key: height if height == width else [height, width] for key, (height, width) in sides.items()
        }


@dataclasses.dataclass(frozen=True)
class DeiTConfig(ViTConfig):
    """The shape of a DeiT, which has a second special token, for distillation."""

    model_type: ClassVar[str] = "deit"
    display_name: ClassVar[str] = "DeiT"
    special_tokens: ClassVar[int] = 2


# jaxft's name of a field -> its key in config.json.
HF_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "has_attention_bias": "qkv_bias",
}
SIDES = ("image_size", "patch_size")
NEW_MODEL_FIELDS = (*HF_KEYS.values(), "patch_size")
