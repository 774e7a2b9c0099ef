"""Loads the settings of a run: a recipe (Python, YAML or JSON), under overrides from the command line."""

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ml_collections import ConfigDict

from jaxft.config import sections
from jaxft.config.settings import Schema, type_name
from jaxft.errors import UserError

SECTIONS = ("model", "data", "batch", "train", "optim", "loss", "eval", "checkpoint", "mesh", "log")
RECIPE = "recipe"  # the key of a YAML or JSON recipe that names the recipe it is based on
_ADDRESS = re.compile(r"(.*?\.(?:py|json|ya?ml))(?::(.*))?", re.DOTALL)
_OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)


def load(
    address: str, overrides: Sequence[str], schema_of: Callable[[str | None], Schema]
) -> sections.Settings:
    """Returns the checked settings of recipe `address` under `overrides`.

    Args:
      address: "configs/ner.py:offline" (a Python file with `get_config(arg) -> ConfigDict`), a YAML or JSON file of
        settings (with `recipe: configs/ner.py:offline` as its base, if it has one), or a run's `config.json`.
      overrides: "--config.optim.lr=3e-5" and the like, applied in order.
      schema_of: the settings that a task has; raises `UserError` for a name that is no task.

    Raises:
      UserError: no such file or recipe, an unknown key, a value of the wrong type or that no run can have.
    """
    values, where = read_recipe(address), _ADDRESS.fullmatch(address)[1]
    typed = []
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if not match:
            raise UserError(f"{text}: expected an override such as --config.optim.lr=3e-5")
        typed.append((text, *match.groups()))
    task = next((value for _, key, value in reversed(typed) if key == "task"), values.get("task"))
    if not task:
        raise UserError(
            f"--config {address}: config.task must be given, such as --config.task=token_classification"
        )
    schema = schema_of(task)
    if values.get("task") not in (None, task):  # what its recipe left as it was goes with the old task
        before = schema_of(values["task"]).declarations
        values = {
            key: value
            for key, value in values.items()
            if key in schema.declarations or key not in before or value != before[key].default
        }
    values["task"] = task
    values = {key: schema.convert(key, value, where) for key, value in values.items()}
    for text, key, value in typed:
        values[key] = schema.convert(key, schema.parse(key, value, text), text)
    return schema.build(values, where)


def recipe_name(address: str) -> str:
    """Returns a name for the runs of a recipe: "ner" or "ner-wnut17" for "configs/ner.py:wnut17"."""
    stem, _, arg = address.rpartition("/")[2].partition(".")
    arg = arg.partition(":")[2]
    return f"{stem}-{arg}" if arg else stem


def read_recipe(address: str) -> dict[str, Any]:
    """Returns the values of a recipe by key, unchecked. Raises `UserError` if there is no such recipe."""
    match = _ADDRESS.fullmatch(address)
    path = Path(match[1] if match else address)
    if not path.is_file():
        raise UserError(f"--config {address}: no file {path}; expected a recipe such as configs/ner.py")
    if not match:
        raise UserError(
            f"--config {address}: expected a recipe in Python, YAML or JSON, or a run's config.json"
        )
    if path.suffix == ".py":
        return flatten_values(_run_recipe(path, match[2]).to_dict())
    if match[2]:
        raise UserError(
            f"--config {address}: only a Python recipe takes what follows the colon; leave it out"
        )
    return _read_values(path)


def flatten_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested values by key: {"optim": {"lr": 5e-05}} and {"optim.lr": 5e-05} give {"optim.lr": 5e-05}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif key == "tasks" and isinstance(value, Mapping):
            flat[key] = {
                name: flatten_values(entry) if isinstance(entry, Mapping) else entry
                for name, entry in value.items()
            }
        else:
            flat[str(key)] = value
    return flat


def _read_values(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object of settings, found {type_name(type(values))}")
    base = values.pop(RECIPE, None)
    if base is None:
        return flatten_values(values)
    if not isinstance(base, str):
        raise UserError(f"{path}: recipe takes text such as configs/ner.py:offline, found {base!r}")
    return read_recipe(_find_base(base, path)) | flatten_values(values)


def _find_base(base: str, path: Path) -> str:
    """The address of the recipe that `path` is based on: as it stands, or next to `path`."""
    match = _ADDRESS.fullmatch(base)
    if match and not Path(match[1]).is_file() and (path.parent / match[1]).is_file():
        return str(path.parent / base)
    return base


def _run_recipe(path: Path, arg: str | None) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"jaxft_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code may raise
        text = str(error).strip("\"'").replace("\n", " ")
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned {type_name(type(config))}, expected a ConfigDict")
    return config
