"""Lists the model families by the `model_type` of their config.json."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flax import nnx

from jaxft.errors import UserError
from jaxft.hub.weights import WeightTable
from jaxft.models.bert import config as bert_config
from jaxft.models.bert import weights as bert_weights
from jaxft.models.bert.config import BertConfig
from jaxft.models.bert.network import Bert
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.gpt2 import weights as gpt2_weights
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.gpt2.network import GPT2
from jaxft.models.model_config import ModelConfig
from jaxft.models.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family: its network, and how its checkpoints are read and written.

    Attributes:
      network: the backbone's class.
      config_class: the shape of a backbone; a `ModelConfig`, with a class method `from_hf`.
      config: the module that reads and writes the family's config.json.
      table: maps the network's parameters to the tensors of checkpoints.
      is_causal: whether a position sees only positions up to itself, so that only the last one sees the entire text.
    """

    network: type[nnx.Module]
    config_class: type[ModelConfig]
    config: ModuleType
    table: WeightTable
    is_causal: bool


FAMILIES: dict[str, Family] = {
    "bert": Family(Bert, BertConfig, bert_config, bert_weights.TABLE, is_causal=False),
    "gpt2": Family(GPT2, GPT2Config, gpt2_config, gpt2_weights.TABLE, is_causal=True),
}


def family_of(hf_config: Mapping[str, Any]) -> Family:
    """Returns the family of a config.json. Raises `UserError` if its model_type is not supported."""
    model_type = hf_config.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            f"config.json: model_type is {model_type!r}, but only {sorted(FAMILIES)} are supported; choose "
            "another checkpoint (or add the field where an old config.json lacks it)"
        )
    return FAMILIES[model_type]


def make_backbone(config: ModelConfig, runtime: Runtime, *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """Makes a backbone.

    Args:
      config: its shape, an instance of its family's config class.
      runtime: how it computes.
      rngs: the random numbers for its parameters.
      options: more keyword arguments of the backbone.
    """
    return FAMILIES[config.model_type].network(config, runtime, **options, rngs=rngs)
