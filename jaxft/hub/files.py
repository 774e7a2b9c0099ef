"""Reads the config.json of a model folder, and writes such a folder whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches numpy, and so safetensors, the name "bfloat16"
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxft.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json as plain JSON. Raises UserError where it is missing or not an object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: has no config.json; expected a checkpoint folder in Hugging Face's layout"
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_model_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    also: Callable[[Path], None] | None = None,
) -> None:
    """Writes model.safetensors and config.json as a new folder, whole or not at all.

    `also` gets the unfinished folder's path, to write more files there (tokenizer, model card). Everything
    is written beside `folder` under a temporary name and renamed at the end. Raises UserError if `folder`
    exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; choose another or remove it")
    unfinished = folder.parent / f".{folder.name}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        # The metadata is what readers of Hugging Face's layout ask for; the tensors are plain.
        save_file(dict(tensors), unfinished / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "config.json").write_text(text, encoding="utf-8")
        # safetensors leaves the file to its owner.
        shutil.copymode(unfinished / "config.json", unfinished / WEIGHTS)
        if also is not None:
            also(unfinished)
        unfinished.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
