"""Reads the tensors of a checkpoint from safetensors files: one file, or shards."""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers the name "bfloat16" with numpy, and so with safetensors
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxft.errors import UserError, first_line
from jaxft.hub.files import INDEX, WEIGHTS, read_json_object

# Floating-point dtypes of tensors, and those of buffers such as position ids, by their names in safetensors.
READABLE_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


class _LazyTensors(Mapping[str, np.ndarray]):
    """Tensors by name. Each is read from its open file when it is looked up."""

    def __init__(self, folder: Path, files: dict[str, Any]):
        self._folder, self._files = folder, files

    def __getitem__(self, name: str) -> np.ndarray:
        file = self._files[name]
        dtype = file.get_slice(name).get_dtype()
        if dtype not in READABLE_DTYPES:
            raise UserError(
                f"{self._folder}: the tensor {name!r} has dtype {dtype}; expected one of {', '.join(READABLE_DTYPES)}; "
                "save the model in float32 or bfloat16"
            )
        try:
            return file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{self._folder}: the tensor {name!r} cannot be read ({first_line(error)}); download it again"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_tensors(folder: Path) -> Mapping[str, np.ndarray]:
    """Opens a checkpoint's tensors in model.safetensors, or in the shards that model.safetensors.index.json names.

    Returns:
      The tensors by name, as numpy arrays (bfloat16 has ml_dtypes' dtype). Each is read when it is looked up.

    Raises:
      UserError: the weights are missing or damaged, or stored only as a pickle, which is never loaded.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return open_tensor_file(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _LazyTensors(folder, _open_shards(folder))
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: expected weights as {WEIGHTS} or {INDEX}, found an adapter; give it as "
            "config.adapter.init_from, and its base as config.model.checkpoint"
        )
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    present = f"only {', '.join(pickles)}" if pickles else "none"
    source = folder if pickles else "FOLDER_OR_HUB_ID"
    raise UserError(
        f"{folder}: expected weights as {WEIGHTS} or {INDEX}, found {present}. A .bin file is a pickle, which can run "
        f"any code and is never loaded; make {WEIGHTS} of it: jaxft convert {source} --output NEW_FOLDER"
    )


def open_tensor_file(path: Path) -> Mapping[str, np.ndarray]:
    """Opens the tensors of one safetensors file; see `open_tensors`. Raises `UserError` if it is damaged."""
    file = _open_file(path)
    return _LazyTensors(path.parent, {name: file for name in file.keys()})


def checksum_weights(folder: Path) -> str:
    """Returns the CRC-32 of all weight files of a checkpoint. Raises `UserError` like `open_tensors`."""
    folder = Path(folder)
    open_tensors(folder)
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        names = sorted(set(read_json_object(folder / INDEX)["weight_map"].values()))
    checksum = 0
    for name in names:
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _open_shards(folder: Path) -> dict[str, Any]:
    """Returns the open file of each tensor that the index of sharded weights names."""
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder / INDEX}: expected an object 'weight_map' from tensor names to files")
    shards: dict[str, Any] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in shards:
            # An index must not name files elsewhere.
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise UserError(f"{folder / INDEX}: {shard!r} is not a file name in the same folder")
            if not (folder / shard).is_file():
                raise UserError(f"{folder / INDEX}: names the shard {shard!r}, which is not there")
            shards[shard] = _open_file(folder / shard)
        if name not in shards[shard].keys():
            raise UserError(f"{folder / INDEX}: says that {shard!r} has the tensor {name!r}, but it has not")
    return {name: shards[shard] for name, shard in weight_map.items()}


def _open_file(path: Path) -> Any:
    """Opens a safetensors file; raises `UserError` if it is damaged."""
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); download it again") from None
