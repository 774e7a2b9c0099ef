"""Makes model.safetensors of weights that are stored as a pickle, which no other module reads. Needs PyTorch."""

import importlib.util
import os
import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from jaxft.errors import UserError, first_line
from jaxft.hub.addresses import CONFIG_PATTERNS, PICKLE_PATTERNS, resolve_address
from jaxft.hub.files import INDEX, PICKLE, PICKLE_INDEX, WEIGHTS, new_folder, read_config, read_json_object
from jaxft.io.files import describe_unwritable

if TYPE_CHECKING:
    import torch


def convert_checkpoint(address: str, output: Path | None = None) -> Path:
    """Writes model.safetensors of a checkpoint's pytorch_model.bin, or of its shards, either completely or not at all.

    PyTorch reads the pickles in the mode that loads nothing but tensors, and the new file is read back and compared.
    Tensors that share memory become separate.

    Args:
      address: a folder, or another address of `resolve_address`.
      output: a new or empty folder, which also gets config.json, the tokenizer and the model card; None to write into
        the checkpoint's own folder.

    Returns:
      The path of the new file.

    Raises:
      UserError: torch is not installed; there is no checkpoint with pickled weights, or it has safetensors already; a
        pickle is damaged or holds more than tensors; or the new file cannot be written.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("convert reads the weights with torch, which is not installed: pip install torch")
    if output is None and not Path(address).expanduser().is_dir():  # said before a download
        raise UserError(
            f"{address}: no such folder; for one of a hub or store, name a new one for the result, --output FOLDER"
        )
    folder = resolve_address(address, weights=PICKLE_PATTERNS)
    if present := [name for name in (WEIGHTS, INDEX) if (folder / name).exists()]:
        raise UserError(f"{folder}: has {present[0]} already, so there is nothing to convert")
    read_config(folder)  # to name a folder that is no checkpoint
    tensors = _read_pickles(folder)
    if output is None:
        path = folder / WEIGHTS
        unfinished = folder / f".{WEIGHTS}.unfinished-{os.getpid()}"
        try:
            _write_tensors(unfinished, tensors)
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            raise UserError(describe_unwritable(str(path), error)) from error
        finally:
            unfinished.unlink(missing_ok=True)
        return path
    with new_folder(output) as new:
        for path in folder.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in CONFIG_PATTERNS):
                shutil.copyfile(path, new / path.name)
        _write_tensors(new / WEIGHTS, tensors)
    return output / WEIGHTS


def _read_pickles(folder: Path) -> dict[str, "torch.Tensor"]:
    """Returns the tensors of all pickles of a checkpoint by name, each contiguous and with memory of its own."""
    if (folder / PICKLE).is_file():
        names = [PICKLE]
    elif (folder / PICKLE_INDEX).is_file():
        shards = read_json_object(folder / PICKLE_INDEX).get("weight_map")
        values = list(shards.values()) if isinstance(shards, dict) else []
        if not values or not all(isinstance(name, str) and Path(name).name == name for name in values):
            raise UserError(
                f"{folder / PICKLE_INDEX}: expected an object 'weight_map' from tensor names to files of the folder"
            )
        names = list(dict.fromkeys(values))
    else:
        raise UserError(f"{folder}: has no weights to convert; expected {PICKLE} or {PICKLE_INDEX}")
    import torch

    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name in names:
        for key, tensor in _read_pickle(folder / name).items():
            if key in tensors:
                raise UserError(f"{folder}: two files have the tensor {key!r}; expected it in one")
            storage = tensor.untyped_storage()
            # safetensors refuses tensors that share memory, and those whose memory is in another order.
            if (
                storage.data_ptr() in storages
                or storage.nbytes() > tensor.nbytes
                or not tensor.is_contiguous()
            ):
                tensor = tensor.clone(memory_format=torch.contiguous_format)
            storages.add(storage.data_ptr())
            tensors[key] = tensor
    return tensors


def _read_pickle(path: Path) -> dict[str, "torch.Tensor"]:
    """Returns the tensors of a pickle by name. Raises `UserError` if it is missing or holds anything else."""
    import torch

    if not path.is_file():
        raise UserError(f"{path}: not found, although the index names it; download it again")
    try:
        # Files of before PyTorch 1.6 cannot be mapped.
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"{path}: PyTorch cannot load it as tensors alone: it is damaged, or holds objects that could run code, "
            f"which jaxft never loads; download it again, or ask its authors for safetensors ({first_line(error)})"
        ) from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path}: expected tensors by name, found {type(values).__name__}")
    for key, tensor in values.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise UserError(
                f"{path}: expected dense tensors by name, found {type(tensor).__name__} under {key!r}; is it the state "
                "of a training, and not a model's weights?"
            )
    return {key: tensor.detach() for key, tensor in values.items()}


def _write_tensors(path: Path, tensors: dict[str, "torch.Tensor"]) -> None:
    """Writes a safetensors file next to config.json. Raises `UserError` if it is not read back as it was written."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    def is_same(read: torch.Tensor, tensor: torch.Tensor) -> bool:
        read_bytes, expected = (values.reshape(-1).view(torch.uint8) for values in (read, tensor))
        return read.dtype == tensor.dtype and read.shape == tensor.shape and torch.equal(read_bytes, expected)

    save_file(tensors, path, metadata={"format": "pt"})  # which readers of Hugging Face's layout require
    shutil.copymode(path.parent / "config.json", path)  # else only its owner may read it
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, tensor in tensors.items():
            if name not in names or not is_same(file.get_tensor(name), tensor):
                raise UserError(
                    f"the tensor {name!r} is not read back from the disk as it was written, so no file was made; name "
                    "a folder on another disk, --output FOLDER"
                )
