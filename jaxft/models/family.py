"""Defines what a model family declares of itself."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType

from flax import nnx

from jaxft.hub.weights import WeightTable
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.model_config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that a family supports.

    Attributes:
      architecture: transformers' class of the backbone with this head.
      pool: for texts, how that class makes one vector of the hidden states; see `layers.heads.sequence`.
      has_bias: whether the linear layer of that class has a bias.
    """

    architecture: str
    pool: str | None = None
    has_bias: bool = True


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family: its network, how its checkpoints are read and written, and what it can do.

    Attributes:
      display_name: its name in its usual spelling.
      network: the backbone's class.
      config_class: the shape of a backbone.
      config: the module that reads the family's config.json.
      table: maps the network's parameters to the tensors of checkpoints.
      architecture: transformers' class of the backbone without a head.
      heads: the heads that it supports.
      is_causal: whether a position sees only positions up to itself, so that only the last one sees the entire text.
      has_token_types: whether it reads `token_type_ids`.
      has_pooler: whether the network takes `pooler=True`, for a layer over the first state.
    """

    display_name: str
    network: type[nnx.Module]
    config_class: type[ModelConfig]
    config: ModuleType
    table: WeightTable
    architecture: str
    heads: Mapping[HeadKind, Head]
    is_causal: bool
    has_token_types: bool
    has_pooler: bool
