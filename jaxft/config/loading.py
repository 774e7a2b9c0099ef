"""Loads the settings of a run from a recipe and changes to it, of a command line or of a program."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from jaxft.config import sections
from jaxft.config.overlay import Entry, Log, overlay
from jaxft.config.recipes import flatten_values, read_recipe
from jaxft.config.settings import Schema, flatten
from jaxft.errors import UserError

# The address of a recipe, or the values of a recipe.
Config: TypeAlias = str | os.PathLike[str] | ConfigDict | Mapping[str, Any] | sections.Settings

_OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)


def load(
    config: Config,
    changes: Sequence[str] | Mapping[str, Any],
    schema_of: Callable[[Any, str], Schema],
    log: Log = lambda line: None,
) -> sections.Settings:
    """Returns the checked settings of a recipe with `changes`.

    Values that belong to other values of the recipe go with them; see `config.overlay.overlay`.

    Args:
      config: "configs/ner.py:offline" (a Python file with `get_config(arg) -> ConfigDict`), "ner:offline" for the
        same, a YAML or JSON file of settings (which may name a base by `recipe: configs/ner.py:offline`), or a run's
        `config.json`; or the values of a recipe.
      changes: texts such as "--config.optim.lr=3e-5", applied in order, or values as in a YAML recipe, such as
        {"optim.lr": 3e-5} or {"optim": {"lr": 3e-5}}.
      schema_of: returns the schema of the task with a name, or raises `UserError`; it also gets the source of the
        settings, for the message if they name none.
      log: prints a line about data sets of the recipe that are left out.

    Raises:
      UserError: there is no such file or recipe, a key is unknown, a value has the wrong type, or no run can have it.
    """
    if isinstance(config, str | os.PathLike):
        where, name = f"--config {os.fspath(config)}", f"recipe {os.fspath(config)}"
        entries = read_recipe(os.fspath(config), log=log)
    else:
        where = name = "config"
        entries = _read_values(config, where)
    changed = read_changes(changes)
    recipe_task = entries["task"].value if "task" in entries else None
    task = changed["task"].value if "task" in changed else recipe_task
    schema = schema_of(task, where)
    if recipe_task not in (None, task):  # values that the recipe left at the old task's defaults are dropped
        before = schema_of(recipe_task, where)
        entries = {
            key: entry
            for key, entry in entries.items()
            if key in schema.declarations
            or key not in before.declarations
            or before.convert(key, *entry) != before.declarations[key].default
        }
    changed = {key: Entry(schema.convert(key, *entry), entry.where) for key, entry in changed.items()}
    entries = overlay(entries, changed, name, log)
    values = {key: schema.convert(key, *entry) for key, entry in entries.items()} | {"task": task}
    return schema.build(values, where)


def list_set_keys(config: Config, changes: Sequence[str] | Mapping[str, Any], with_key: str) -> set[str]:
    """Returns the keys that are set on purpose: those of changes, and of the YAML or JSON file that sets `with_key`.

    A recipe in Python holds all keys, and so does the `config.json` of a run, which may be of another kind.
    """
    keys = set(read_changes(changes))
    if isinstance(config, str | os.PathLike):
        entries = read_recipe(os.fspath(config))
        of_key = entries.get(with_key, Entry(None, ""))
        if of_key.value is not None and not of_key.where.endswith(".py"):
            keys |= {key for key, entry in entries.items() if entry.where == of_key.where}
    return keys


def read_changes(changes: Sequence[str] | Mapping[str, Any]) -> dict[str, Entry]:
    """Returns the values of changes by key; see `load`."""
    return _read_values(changes, "settings") if isinstance(changes, Mapping) else _parse_texts(changes)


def _parse_texts(overrides: Sequence[str]) -> dict[str, Entry]:
    """Returns the values of texts such as "--config.optim.lr=3e-5", still as text. The last one of a key counts."""
    entries = {}
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if not match:
            raise UserError(f"{text}: expected an override such as --config.optim.lr=3e-5")
        entries[match[1]] = Entry(match[2], text)
    return entries


def _read_values(values: ConfigDict | Mapping[str, Any] | sections.Settings, where: str) -> dict[str, Entry]:
    """Returns nested or flat values by key; paths become text."""
    if isinstance(values, sections.Settings):
        values = flatten(values)
    elif isinstance(values, ConfigDict):
        values = values.to_dict()
    return {
        key: Entry(os.fspath(value) if isinstance(value, os.PathLike) else value, where)
        for key, value in flatten_values(values, where).items()
    }
