"""Loads the settings of a run from a recipe and overrides on the command line."""

import re
from collections.abc import Callable, Sequence

from jaxft.config import sections
from jaxft.config.overlay import Entry, Log, overlay
from jaxft.config.recipes import read_recipe
from jaxft.config.settings import Schema
from jaxft.errors import UserError

_OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)


def load(
    address: str,
    overrides: Sequence[str],
    schema_of: Callable[[str | None], Schema],
    log: Log = lambda line: None,
) -> sections.Settings:
    """Returns the checked settings of recipe `address`, changed by `overrides`.

    Values that belong to other values of the recipe go with them; see `config.overlay.overlay`.

    Args:
      address: "configs/ner.py:offline" (a Python file with `get_config(arg) -> ConfigDict`), "ner:offline" for the
        same, a YAML or JSON file of settings (which may name a base by `recipe: configs/ner.py:offline`), or a run's
        `config.json`.
      overrides: texts such as "--config.optim.lr=3e-5", applied in order.
      schema_of: returns the schema of a task; raises `UserError` if there is no such task.
      log: prints a line about data sets of the recipe that are left out.

    Raises:
      UserError: there is no such file or recipe, a key is unknown, a value has the wrong type, or no run can have it.
    """
    entries = read_recipe(address, log=log)
    typed = []
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if not match:
            raise UserError(f"{text}: expected an override such as --config.optim.lr=3e-5")
        typed.append((text, *match.groups()))
    recipe_task = entries["task"].value if "task" in entries else None
    task = next((value for _, key, value in reversed(typed) if key == "task"), recipe_task)
    if not task:
        raise UserError(
            f"--config {address}: config.task must be given, such as --config.task=token_classification"
        )
    schema = schema_of(task)
    if recipe_task not in (None, task):  # values that the recipe left at the old task's defaults are dropped
        before = schema_of(recipe_task)
        entries = {
            key: entry
            for key, entry in entries.items()
            if key in schema.declarations
            or key not in before.declarations
            or before.convert(key, *entry) != before.declarations[key].default
        }
    changes = {
        key: Entry(schema.convert(key, schema.parse(key, value, text), text), text)
        for text, key, value in typed
    }
    entries = overlay(entries, changes, f"recipe {address}", log)
    values = {key: schema.convert(key, *entry) for key, entry in entries.items()} | {"task": task}
    return schema.build(values, f"--config {address}")
