"""Reads and writes the tensor of prefix tuning and prompt tuning, whose rows PEFT calls virtual tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.adapters.plan import AdapterPlan
from jaxft.adapters.prefix import compute_prefix
from jaxft.adapters.prompt import EMBEDDING
from jaxft.errors import UserError

TENSOR = "prompt_embeddings"
# The paths of the parameter that the tensor holds, by method.
PATHS = {"prefix": "backbone/adapter/embedding", "prompt": EMBEDDING}


def load_virtual_tokens(
    method: str, parameters: Mapping[str, Any], tensors: Mapping[str, np.ndarray], source: str
) -> dict[str, np.ndarray]:
    """Returns the parameter by path that PEFT's tensor holds; none for other methods.

    Args:
      method: the method of adapters.
      parameters: the model's parameters by path, perhaps in the abstract.
      tensors: the adapter's tensors by name, which may also be others.
      source: the adapter's name in errors.

    Raises:
      UserError: the tensor is missing, or has another shape.
    """
    if method not in PATHS:
        return {}
    path = PATHS[method]
    expected = tuple(parameters[path].shape)
    actual = tuple(tensors[TENSOR].shape) if TENSOR in tensors else None
    if actual != expected:
        what = f"the tensor {TENSOR!r} of shape {actual}" if actual else f"no tensor {TENSOR!r}"
        raise UserError(
            f"{source} has {what}, but the model and the adapter's config give it the shape {expected}; was the "
            "adapter trained on another model?"
        )
    return {path: tensors[TENSOR].astype(parameters[path].dtype)}


def save_virtual_tokens(method: str, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns PEFT's tensor by name for parameters by path; none for other methods.

    The network that makes a prefix is not in PEFT's files: they hold what it makes.
    """
    if method not in PATHS:
        return {}
    folder = PATHS[method].removesuffix("embedding")
    values = {
        path.removeprefix(folder): value for path, value in parameters.items() if path.startswith(folder)
    }
    return {TENSOR: np.asarray(compute_prefix(values) if method == "prefix" else values["embedding"])}


def describe_virtual_tokens(plan: AdapterPlan, tensor: np.ndarray) -> dict[str, Any]:
    """Returns the keys of adapter_config.json that describe the tensor."""
    shape, count = plan.shape, plan.settings.num_virtual_tokens
    keys = {
        "num_virtual_tokens": count,
        "token_dim": shape.hidden_size if plan.settings.method == "prefix" else tensor.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": shape.num_heads,
        "num_layers": shape.num_layers,
    }
    if plan.settings.method == "prefix":
        return keys | {"encoder_hidden_size": shape.hidden_size, "prefix_projection": False}
    return keys | {"prompt_tuning_init": "RANDOM"}
