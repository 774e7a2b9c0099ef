"""Reads and checks the fields that the config.json of every Hugging Face checkpoint has in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.errors import UserError

# Our names of activations by theirs.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def check_model_type(hf_config: Mapping[str, Any], wanted: str) -> None:
    """Raises `UserError` for another model_type."""
    found = hf_config.get("model_type")
    if found != wanted:
        name = {"bert": "BERT", "gpt2": "GPT-2"}[wanted]
        raise UserError(
            f"config.json: model_type is {found!r}, but only {wanted!r} is supported for this task; choose a "
            f'{name} checkpoint (for one so old that the field is missing, add "model_type": "{wanted}")'
        )


def check_values(hf_config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raises `UserError` where a field is there and not as in `supported`, so that the weights mean something else."""
    for key, only in supported.items():
        if (value := hf_config.get(key, only)) != only:
            raise UserError(f"config.json: {key} is {value!r}, but only {only!r} is supported")


def activation(hf_config: Mapping[str, Any], key: str, default: str) -> str:
    """Our name of the activation under `key`. Raises `UserError` for one that isn't supported."""
    found = hf_config.get(key, default)
    if found not in ACTIVATIONS:
        raise UserError(f"config.json: {key} is {found!r}, but only {sorted(ACTIVATIONS)} are supported")
    return ACTIVATIONS[found]


def width_and_heads(hf_config: Mapping[str, Any], width: str, heads: str) -> tuple[int, int]:
    """The hidden size and the number of heads under these keys. Raises `UserError` where they don't go together."""
    size, count = hf_config.get(width, 768), hf_config.get(heads, 12)
    if size % count:
        raise UserError(
            f"config.json: {width} {size} is not a multiple of {heads} {count}; heads of equal width are expected"
        )
    return size, count


def exported_config(hf_config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The config.json of an exported model: the checkpoint's own fields, and the class that loads it.

    A recorded dtype becomes float32: the exported tensors are, and a reader would round them to it.
    """
    config = dict(hf_config)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) is not None:
            config[key] = "float32"
    return config | {"architectures": [architecture]}


def with_labels(config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A config.json with `labels`, in the order of the head's outputs."""
    count = {"num_labels": len(labels)} if "num_labels" in config else {}
    names = {str(index): label for index, label in enumerate(labels)}
    ids = {label: index for index, label in enumerate(labels)}
    return {**config, **count, "id2label": names, "label2id": ids}
