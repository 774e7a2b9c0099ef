"""The networks that heads stand on, by the name that config.json gives their architecture."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxft.models.bert import Bert
from jaxft.models.gpt2 import GPT2

BODIES: dict[str, type[nnx.Module]] = {"bert": Bert, "gpt2": GPT2}


def is_causal(sizes: Mapping[str, Any]) -> bool:
    """Whether a position of the body sees those before it only, so that its last one has read the whole text."""
    return sizes.get("architecture") == "gpt2"


def make(sizes: Mapping[str, Any], *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """The body of `sizes`: its keyword arguments and its `architecture` (default "bert")."""
    arguments = {name: value for name, value in sizes.items() if name != "architecture"}
    return BODIES[sizes.get("architecture", "bert")](**arguments, **options, rngs=rngs)
