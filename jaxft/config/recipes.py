"""Reads recipes (Python, YAML or JSON), and the recipes that they are based on."""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ml_collections import ConfigDict

from jaxft.config.overlay import Entry, Log, overlay
from jaxft.config.recipe_catalog import ADDRESS, find_recipe, find_recipe_file
from jaxft.config.sections import Settings
from jaxft.config.settings import type_name
from jaxft.errors import UserError

SECTIONS = [field.name for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.default)]
RECIPE = "recipe"  # the key of a YAML or JSON recipe that names the recipe it is based on


def read_recipe(
    address: str, where: str = "", readers: tuple[Path, ...] = (), log: Log = lambda line: None
) -> dict[str, Entry]:
    """Returns the values of a recipe by key, unchecked.

    Args:
      address: as in `load`.
      where: the place that names the address, for messages.
      readers: the files that are based on this recipe.
      log: as in `load`.

    Raises:
      UserError: there is no such recipe, it cannot be read, or it is based on itself.
    """
    where = where or f"--config {address}"
    path, argument = find_recipe_file(address, where, lists_known=not readers)
    if path.suffix == ".py":
        values, base = _run_recipe(path, argument), None
    elif argument:
        raise UserError(f"{where}: only a Python recipe takes what follows the colon; leave it out")
    else:
        values = _read_values(path)
        base = values.pop(RECIPE, None)
    entries = {key: Entry(value, str(path)) for key, value in flatten_values(values, str(path)).items()}
    if base is None:
        return entries
    if not isinstance(base, str):
        raise UserError(f"{path}: recipe takes text such as configs/ner.py:offline, found {base!r}")
    readers = (*readers, path.resolve())
    base = find_recipe(_find_base(base, path))
    if (match := ADDRESS.fullmatch(base)) and Path(match[1]).resolve() in readers:
        raise UserError(f"{path}: recipe: {base} leads back to itself; name another recipe")
    below = read_recipe(base, f"{path}: recipe: {base}", readers, log)
    return overlay(below, entries, f"recipe {base}", log)


def flatten_values(values: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
    """Returns nested values by key: {"optim": {"lr": 5e-05}} and {"optim.lr": 5e-05} give {"optim.lr": 5e-05}.

    Args:
      values: the nested values.
      where: the source of the values, for messages.

    Raises:
      UserError: `values` is not a mapping, or sets a setting in both ways.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected an object of settings, found {type_name(type(values))}")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key == "tasks" and isinstance(value, Mapping):
            inner = {
                key: {
                    name: flatten_values(entry, f"{where}: config.tasks, {name}")
                    if isinstance(entry, Mapping)
                    else entry
                    for name, entry in value.items()
                }
            }
        elif isinstance(value, Mapping) and "." not in str(key):
            inner = {f"{key}.{name}": entry for name, entry in value.items()}
        elif key in SECTIONS and value is None:  # an empty section of YAML
            inner = {}
        else:
            inner = {str(key): value}
        if repeated := flat.keys() & inner.keys():
            raise UserError(f"{where}: config.{min(repeated)} is given twice; leave one out")
        flat |= inner
    return flat


class _YamlLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML; refuses duplicate keys, and values that contain themselves."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Composes a mapping, and checks its keys before keys of other mappings are merged into it."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} is given twice", problem_mark=key.start_mark
                    )
                names.add(key.value)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Constructs a mapping from the inside out. This fails for a value that contains itself."""
        return super().construct_mapping(node, deep=True)


def _parse_yaml(text: str, path: Path) -> Any:
    loader = _YamlLoader(text)
    loader.name = path.name  # in messages
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _make_object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the items of a JSON object as a dict; raises ValueError for a duplicate key."""
    values = dict(items)
    if len(values) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)} is given twice")
    return values


def _read_values(path: Path) -> dict[str, Any]:
    """Returns the object in a YAML or JSON file."""
    form = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if form == "JSON":
            values = json.loads(text, object_pairs_hook=_make_object)
        else:
            values = _parse_yaml(text, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: not {form} of settings: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not {form}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object of settings, found {type_name(type(values))}")
    return values


def _find_base(base: str, path: Path) -> str:
    """Returns the address of the recipe that `path` is based on: `base` itself, or relative to the folder of `path`."""
    match = ADDRESS.fullmatch(base)
    if match and not Path(match[1]).is_file() and (path.parent / match[1]).is_file():
        return str(path.parent / base)
    return base


def _run_recipe(path: Path, arg: str | None) -> dict[str, Any]:
    """Returns the values of the `ConfigDict` that a Python recipe returns."""
    spec = importlib.util.spec_from_file_location(f"jaxft_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
        if isinstance(config, ConfigDict):
            return config.to_dict()
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        text = str(error).strip("\"'").replace("\n", " ")
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error
    raise UserError(f"{path}: get_config returned {type_name(type(config))}, expected a ConfigDict")
