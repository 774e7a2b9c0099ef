"""Reads the config.json of a model folder, and writes new model folders."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers the name "bfloat16" with numpy, and so with safetensors
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxft.errors import UserError
from jaxft.io.files import describe_unwritable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # names the file of each tensor, if the weights are sharded
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """Returns a checkpoint's config.json. Raises `UserError` if it is missing or not a JSON object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: has no config.json; expected a checkpoint folder in Hugging Face's layout"
        )
    return read_json_object(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises `UserError` if the file holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Makes a new folder, either completely or not at all.

    Args:
      folder: the path of the new folder; it must not exist, or must be empty.

    Yields:
      A temporary folder next to `folder` to write into. At the end it is renamed; after an error it is removed.

    Raises:
      UserError: `folder` exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; choose another or remove it")
    unfinished = folder.parent / f".{folder.name}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(describe_unwritable(str(folder), error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_model_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    write_extras: Callable[[Path], None] | None = None,
) -> None:
    """Writes model.safetensors and config.json into a new folder, either completely or not at all.

    Args:
      folder: the path of the new folder; see `new_folder`.
      tensors: the weights by name.
      config: the content of config.json.
      write_extras: called with the temporary folder to write more files (tokenizer, model card).

    Raises:
      UserError: `folder` exists and is not empty, or cannot be written.
    """
    with new_folder(folder) as unfinished:
        # Readers of Hugging Face's layout require this metadata.
        save_file(dict(tensors), unfinished / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "config.json").write_text(text, encoding="utf-8")
        # safetensors creates a file that only its owner may read.
        shutil.copymode(unfinished / "config.json", unfinished / WEIGHTS)
        if write_extras is not None:
            write_extras(unfinished)
