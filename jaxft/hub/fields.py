"""Reads, checks and writes the fields of config.json that all Hugging Face checkpoints have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.errors import UserError

# The names in `layers.activations` by the names in config.json.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def check_model_type(hf_config: Mapping[str, Any], expected: str, *, display_name: str) -> None:
    """Raises `UserError` if the model_type is not `expected`. The message names the family by `display_name`."""
    model_type = hf_config.get("model_type")
    if model_type != expected:
        raise UserError(
            f"config.json: model_type is {model_type!r}, but only {expected!r} is supported for this task; choose a "
            f'{display_name} checkpoint (for one so old that the field is missing, add "model_type": "{expected}")'
        )


def check_values(hf_config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raises `UserError` if a field is set to another value than in `supported`, which changes the weights' meaning."""
    for key, expected in supported.items():
        if (value := hf_config.get(key, expected)) != expected:
            raise UserError(f"config.json: {key} is {value!r}, but only {expected!r} is supported")


def read_activation(hf_config: Mapping[str, Any], key: str, default: str) -> str:
    """Returns jaxft's name of the activation in the field `key`. Raises `UserError` if it is not supported."""
    name = hf_config.get(key, default)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(f"config.json: {key} is {name!r}, but only {sorted(ACTIVATIONS)} are supported")
    return ACTIVATIONS[name]


def name_activation(activation: str) -> str:
    """Returns the name in config.json of jaxft's activation."""
    return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def read_rate(hf_config: Mapping[str, Any], keys: Sequence[str], default: float) -> float:
    """Returns the first dropout rate among `keys` that is set. Raises `UserError` for what is no rate."""
    for key in keys:
        if (rate := hf_config.get(key)) is None:
            continue
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise UserError(f"config.json: {key} is {rate!r}; expected a rate of 0 or more and below 1")
        return rate
    return default


def read_width_and_heads(hf_config: Mapping[str, Any], width_key: str, heads_key: str) -> tuple[int, int]:
    """Returns the hidden size and the number of heads. Raises `UserError` if heads do not divide the hidden size."""
    width, heads = hf_config.get(width_key, 768), hf_config.get(heads_key, 12)
    if width % heads:
        raise UserError(
            f"config.json: {width_key} {width} is not a multiple of {heads_key} {heads}; heads of equal width are "
            "expected"
        )
    return width, heads


def make_exported_config(hf_config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Returns the config.json of an exported model: the checkpoint's fields, and `architecture`, the class to load.

    A dtype in it becomes float32, the dtype of the exported tensors. With another dtype a reader would round them.
    """
    config = dict(hf_config)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) is not None:
            config[key] = "float32"
    return config | {"architectures": [architecture]}


def add_labels(config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Returns a config.json with `labels`, in the order of the head's outputs."""
    count = {"num_labels": len(labels)} if "num_labels" in config else {}
    names = {str(index): label for index, label in enumerate(labels)}
    ids = {label: index for index, label in enumerate(labels)}
    return {**config, **count, "id2label": names, "label2id": ids}
