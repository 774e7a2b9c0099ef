"""Defines the shape of a ResNet, and reads and writes the config.json of its checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxft.errors import UserError
from jaxft.hub.fields import check_model_type, check_values, read_activation
from jaxft.models.model_config import ModelConfig, read_count, read_fields, read_sides, write_fields

LAYER_TYPES = ("basic", "bottleneck")
REDUCTION = 4  # the narrow layers of a bottleneck have a quarter of its channels
MOST_STAGES, MOST_BLOCKS, MOST_CHANNELS = 16, 1000, 2**17


@dataclasses.dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """The shape of a ResNet. The defaults are those of transformers' ResNetConfig, which are ResNet-50's.

    Attributes:
      image_size: height and width of images, for the count of FLOPs alone: a ResNet reads images of any size, and
        its config.json does not say one.
      embedding_size: the channels after the stem.
      hidden_sizes: the channels after each stage.
      depths: the number of blocks of each stage.
      layer_type: the kind of blocks, "basic" (two convolutions) or "bottleneck" (three).
      activation: a key of `layers.activations.ACTIVATIONS`, for the stem and the ends of blocks. Within blocks it is
        ReLU, as in transformers.
      downsample_in_first_stage: whether the first stage halves the sides of images, as the others do.
      downsample_in_bottleneck: whether the first convolution of a bottleneck halves them, and not the second.
      num_layers: the number of stages, as far as learning rates depend on layers.
    """

    model_type: ClassVar[str] = "resnet"

    image_size: tuple[int, int] = (224, 224)
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    activation: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    hidden_size: int = dataclasses.field(init=False)
    num_layers: int = dataclasses.field(init=False)
    initializer_range: float = dataclasses.field(init=False)
    num_heads: int = 0
    attention_dropout: float = 0.0

    def __post_init__(self):
        """Sets what follows from other fields."""
        size = self.hidden_sizes[-1]
        derived = {
            "hidden_size": size,
            "num_layers": len(self.depths),
            "initializer_range": (3 * size) ** -0.5,  # of a new head, as of torch's linear layers
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def halves_sides(self, stage: int) -> bool:
        """Returns whether the first block of a stage, counted from 0, halves the sides of images."""
        return stage > 0 or self.downsample_in_first_stage

    @classmethod
    def from_hf(cls, hf_config: Mapping[str, object]) -> Self:
        """Returns the config of a checkpoint with this config.json.

        Raises:
          UserError: the model_type is not ResNet's, or a value cannot be.
        """
        check_model_type(hf_config, cls.model_type, display_name="ResNet")
        check_values(hf_config, {"num_channels": 3})
        hf_config = {**cls().to_hf(), **hf_config}
        values = read_fields(hf_config, HF_KEYS)
        values["activation"] = read_activation(hf_config, HF_KEYS["activation"], "relu")
        values["embedding_size"] = read_count(hf_config, "embedding_size", most=MOST_CHANNELS)
        if "image_size" in hf_config:
            values["image_size"] = read_sides(hf_config, "image_size")
        values["hidden_sizes"] = _read_counts(hf_config, "hidden_sizes", most=MOST_CHANNELS)
        values["depths"] = _read_counts(hf_config, "depths", most=MOST_BLOCKS)
        values["layer_type"] = hf_config["layer_type"]
        config = cls(**values)
        if config.layer_type not in LAYER_TYPES:
            raise UserError(
                f"config.json: layer_type is {config.layer_type!r}; expected one of {', '.join(LAYER_TYPES)}"
            )
        if len(config.depths) != len(config.hidden_sizes):
            raise UserError(
                f"config.json: depths has {len(config.depths)} stages, but hidden_sizes {len(config.hidden_sizes)}; "
                "expected a number of each for every stage"
            )
        if config.layer_type == "bottleneck" and min(config.hidden_sizes) < REDUCTION:
            raise UserError(
                f"config.json: hidden_sizes is {list(config.hidden_sizes)}; expected {REDUCTION} or more, because "
                "bottlenecks have a quarter of them"
            )
        return config

    def to_hf(self) -> dict[str, object]:
        """Returns the config.json of a checkpoint of this shape: the inverse of `from_hf`."""
        others = {"embedding_size": self.embedding_size, "layer_type": self.layer_type}
        lists = {"hidden_sizes": list(self.hidden_sizes), "depths": list(self.depths)}
        return write_fields(self, HF_KEYS) | others | lists


# jaxft's name of a field -> its key in config.json, for fields that `read_fields` knows.
HF_KEYS = {
    "activation": "hidden_act",
    "downsample_in_first_stage": "downsample_in_first_stage",
    "downsample_in_bottleneck": "downsample_in_bottleneck",
}
NEW_MODEL_FIELDS = (*HF_KEYS.values(), "embedding_size", "hidden_sizes", "depths", "layer_type")


def _read_counts(hf_config: Mapping[str, object], key: str, *, most: int) -> tuple[int, ...]:
    """Returns the whole numbers at `key`, one for each stage. Raises `UserError` if they are not from 1 to `most`."""
    value = hf_config[key]
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_STAGES:
        raise UserError(
            f"config.json: {key} is {value!r}; expected 1 to {MOST_STAGES} numbers, one for each stage"
        )
    return tuple(read_count({key: count}, key, most=most) for count in value)
