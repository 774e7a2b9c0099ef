"""The networks that heads stand on, by the name that config.json gives their architecture."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flax import nnx

from jaxft.errors import UserError
from jaxft.models.bert import weights
from jaxft.models.bert.network import Bert
from jaxft.models.gpt2 import weights
from jaxft.models.gpt2.network import GPT2

BACKBONES: dict[str, type[nnx.Module]] = {"bert": Bert, "gpt2": GPT2}


def is_causal(sizes: Mapping[str, Any]) -> bool:
    """Whether a position of the body sees those before it only, so that its last one has read the whole text."""
    return sizes.get("architecture") == "gpt2"


def make_backbone(sizes: Mapping[str, Any], *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """The body of `sizes`: its keyword arguments and its `architecture` (default "bert")."""
    arguments = {name: value for name, value in sizes.items() if name != "architecture"}
    return BACKBONES[sizes.get("architecture", "bert")](**arguments, **options, rngs=rngs)


# What a checkpoint means, `sizes` and `TABLE`, by the `model_type` of its config.json.
FAMILIES = {"bert": weights, "gpt2": weights}


def family_of(hf_config: Mapping[str, Any]) -> ModuleType:
    """The module of `ARCHITECTURES` for a config.json. Raises `UserError` for a model_type that isn't there."""
    found = hf_config.get("model_type")
    if found not in FAMILIES:
        raise UserError(
            f"config.json: model_type is {found!r}, but only {sorted(FAMILIES)} are supported; choose "
            "another checkpoint (or add the field where an old config.json lacks it)"
        )
    return FAMILIES[found]
