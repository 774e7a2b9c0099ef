"""Reads and writes adapters in PEFT's files: adapter_config.json and adapter_model.safetensors.

Here, tensors have the names that they would have in the model without adapters, such as
`bert.encoder.layer.0.attention.self.query.lora_A.weight` or `classifier.weight`. In the file they begin with
`base_model.model.`.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import new_folder, read_json_object
from jaxft.hub.tensors import open_tensor_file
from jaxft.io.files import write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MODEL_CONFIG = "config.json"  # that of the model with its labels, if whoever wrote the adapter added it
SETTINGS = "jaxft.json"  # how the run that wrote the adapter reads texts, if jaxft wrote it
PREFIX = "base_model.model."
VIRTUAL_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING")  # methods for which names begin with "base_model." alone


class AdapterFiles(NamedTuple):
    """An adapter as its files say it.

    Attributes:
      folder: the folder of the files.
      config: the content of adapter_config.json.
      tensors: the tensors by name; each is read when it is looked up.
    """

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, np.ndarray]


def read_adapter(address: str, setting: str = "config.adapter.init_from") -> AdapterFiles:
    """Opens the adapter at an address.

    Args:
      address: a local folder, one in an object store, or a hub id, perhaps with `@REVISION`.
      setting: the setting or flag that holds the address, for messages.

    Raises:
      UserError: there is no adapter, its config is damaged, or its tensors are unusable.
    """
    folder = resolve_address(address, weights=(CONFIG, WEIGHTS, SETTINGS), setting=setting)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: has no {CONFIG}; expected the folder of an adapter in PEFT's layout")
    config = read_json_object(folder / CONFIG)
    if not isinstance(config.get("peft_type"), str):
        raise UserError(f"{folder / CONFIG}: has no 'peft_type'; expected the name of a method, such as LORA")
    path = folder / WEIGHTS
    if not path.is_file():
        folder = resolve_address(address, weights=(CONFIG, PICKLE), setting=setting)
        content = "none"
        if (folder / PICKLE).is_file():
            content = (
                f"only {PICKLE}, a pickle, which is never loaded; open the adapter in PEFT, and write it again: "
                "PeftModel.from_pretrained(base, ADDRESS).save_pretrained(FOLDER)"
            )
        raise UserError(f"{folder}: expected the weights of the adapter as {WEIGHTS}, found {content}")
    stored = open_tensor_file(path)
    names: dict[str, str] = {}
    for name in stored:
        # PEFT also writes what a trained module held before, and with `bias` all of its biases twice.
        if re.search(r"\.(original_module|modules_to_save)\.", name):
            continue
        names[name.removeprefix(_name_prefix(config)).replace(".base_layer.", ".")] = name
    return AdapterFiles(folder, config, _Renamed(stored, names))


def _name_prefix(config: Mapping[str, Any]) -> str:
    """Returns what the names of tensors begin with, but of those that are not in a module."""
    return "base_model." if config["peft_type"] in VIRTUAL_TOKENS else PREFIX


class _Renamed(Mapping[str, np.ndarray]):
    """Tensors under other names."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]):
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_adapter_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    write_extras: Callable[[Path], None],
) -> None:
    """Writes an adapter's files into a new folder, either completely or not at all.

    Args:
      folder: the path of the new folder; see `new_folder`.
      tensors: the tensors by name. The biases of modules with an adapter are `MODULE.base_layer.bias`.
      config: the content of adapter_config.json.
      write_extras: called with the temporary folder to write more files.

    Raises:
      UserError: `folder` exists and is not empty, or cannot be written.
    """
    prefix = _name_prefix(config)
    named = {
        prefix + name if "." in name else name: np.ascontiguousarray(tensor)
        for name, tensor in tensors.items()
    }
    with new_folder(folder) as unfinished:
        save_file(named, unfinished / WEIGHTS, metadata={"format": "pt"})
        write_json(unfinished / CONFIG, dict(config))
        shutil.copymode(unfinished / CONFIG, unfinished / WEIGHTS)  # as in `write_model_folder`
        write_extras(unfinished)
