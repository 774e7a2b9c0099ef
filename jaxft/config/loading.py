"""Loads the settings of a run from a recipe (Python, YAML or JSON) and overrides on the command line."""

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ml_collections import ConfigDict

from jaxft.config import sections
from jaxft.config.settings import Schema, type_name
from jaxft.errors import UserError

SECTIONS = ("model", "data", "batch", "train", "optim", "loss", "eval", "checkpoint", "mesh", "log")
RECIPE = "recipe"  # the key of a YAML or JSON recipe that names the recipe it is based on
_ADDRESS = re.compile(r"(.*?\.(?:py|json|ya?ml))(?::(.*))?", re.DOTALL)
_OVERRIDE = re.compile(r"--config\.([\w.]+)=(.*)", re.DOTALL)
_NAME = re.compile(r"([\w-]+)(?::(.*))?", re.DOTALL)  # of a recipe in `RECIPE_FOLDERS`
RECIPE_FOLDERS = (
    Path("configs"),
    Path(__file__).parents[2] / "configs",
)  # here, and in the checkout of jaxft
Log = Callable[[str], None]


class Entry(NamedTuple):
    """A value in a recipe, unconverted, and the file that sets it."""

    value: Any
    where: str


def load(
    address: str,
    overrides: Sequence[str],
    schema_of: Callable[[str | None], Schema],
    log: Log = lambda line: None,
) -> sections.Settings:
    """Returns the checked settings of recipe `address`, changed by `overrides`.

    Values that belong to other values of the recipe go with them; see `_overlay`.

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
    entries = _overlay(entries, changes, f"--config {address}", log)
    values = {key: schema.convert(key, *entry) for key, entry in entries.items()} | {"task": task}
    return schema.build(values, f"--config {address}")


def _overlay(
    below: Mapping[str, Entry], above: Mapping[str, Entry], where: str, log: Log
) -> dict[str, Entry]:
    """Returns the values of a recipe, `below`, changed by those `above` it: of a file based on it, or the command line.

    The recipe's dev and test sets belong to its training data: with other training data they are left out, because its
    scores on them would say nothing. The recipe's `batch.rows` is left out where `batch.examples` is set, and the other
    way round.

    Args:
      below: the values of the recipe.
      above: the values that change them.
      where: the name of the recipe, for messages.
      log: prints a line about data sets that are left out.
    """

    def is_set(entries: Mapping[str, Entry], key: str) -> bool:
        return key in entries and str(entries[key].value).lower() != "none"

    left_out = []
    if is_set(above, "data.train") and is_set(below, "data.train"):
        train = str(above["data.train"].value)
        if train != str(below["data.train"].value):
            left_out = [key for key in ("data.dev", "data.test") if key not in above and is_set(below, key)]
        if left_out:
            sets = " and ".join(f"config.{key}={below[key].value}" for key in left_out)
            is_split = "data.dev" in left_out
            has_test = is_set(above, "data.test")
            effects = ["dev is split off train"] * is_split + ["there is no test set"] * (not has_test)
            log(
                f"config.data.train={train} is not the training data of {where}, so its {sets} "
                f"{'are' if len(left_out) > 1 else 'is'} left out: {' and '.join(effects)}; "
                f"name {' and '.join(f'--config.{key}' for key in left_out)} for others"
            )
    for key, other in (("batch.rows", "batch.examples"), ("batch.examples", "batch.rows")):
        if is_set(above, key):
            left_out.append(other)
    return {key: entry for key, entry in below.items() if key not in left_out} | dict(above)


def recipe_name(address: str) -> str:
    """Returns a name for the runs of a recipe: "ner" for "configs/ner.py", "ner-wnut17" for "configs/ner.py:wnut17"."""
    address = find_recipe(address)
    stem, _, arg = address.rpartition("/")[2].partition(".")
    arg = arg.partition(":")[2]
    return f"{stem}-{arg}" if arg else stem


def find_recipe(address: str) -> str:
    """Returns the address of the recipe in `RECIPE_FOLDERS` that "sentiment:gpt2" names; other addresses unchanged."""
    match = _NAME.fullmatch(address)
    if match and not Path(address).is_file():
        for folder in RECIPE_FOLDERS:
            for path in sorted(folder.glob(f"{match[1]}.*")):
                if _ADDRESS.fullmatch(str(path)):
                    return f"{path}:{match[2]}" if match[2] else str(path)
    return address


def _describe_recipes() -> str:
    """Returns a line for each recipe in `RECIPE_FOLDERS`: its name, and the first line of its docstring."""
    paths = {path.stem: path for folder in reversed(RECIPE_FOLDERS) for path in sorted(folder.glob("*.py"))}
    lines = []
    for name, path in sorted(paths.items()):
        try:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        except (OSError, ValueError, SyntaxError):
            docstring = ""
        lines.append(f"\n  {name:<12} {docstring.partition(chr(10))[0]}".rstrip())
    return "".join(lines)


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
    address = find_recipe(address)
    match = _ADDRESS.fullmatch(address)
    path = Path(match[1] if match else address)
    if not path.is_file():
        known = "" if readers else _describe_recipes()
        raise UserError(
            f"{where}: no file {path}; expected a recipe such as configs/ner.py"
            + (f", or the name of one of these:{known}" if known else "")
        )
    if not match:
        raise UserError(f"{where}: expected a recipe in Python, YAML or JSON, or a run's config.json")
    if path.suffix == ".py":
        values, base = _run_recipe(path, match[2]), None
    elif match[2]:
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
    if (match := _ADDRESS.fullmatch(base)) and Path(match[1]).resolve() in readers:
        raise UserError(f"{path}: recipe: {base} leads back to itself; name another recipe")
    below = read_recipe(base, f"{path}: recipe: {base}", readers, log)
    return _overlay(below, entries, base, log)


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
        if key in SECTIONS and isinstance(value, Mapping | None):  # None is an empty section of YAML
            inner = {f"{key}.{name}": entry for name, entry in (value or {}).items()}
        elif key == "tasks" and isinstance(value, Mapping):
            inner = {
                key: {
                    name: flatten_values(entry, f"{where}: config.tasks, {name}")
                    if isinstance(entry, Mapping)
                    else entry
                    for name, entry in value.items()
                }
            }
        else:
            inner = {str(key): value}
        if repeated := flat.keys() & inner.keys():
            raise UserError(f"{where}: config.{min(repeated)} is given twice; leave one out")
        flat |= inner
    return flat


class _YamlLoader(yaml.SafeLoader):
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
    match = _ADDRESS.fullmatch(base)
    if match and not Path(match[1]).is_file() and (path.parent / match[1]).is_file():
        return str(path.parent / base)
    return base


def _run_recipe(path: Path, arg: str | None) -> dict[str, Any]:
    """Returns the values of the `ConfigDict` that a Python recipe returns."""
    spec = importlib.util.spec_from_file_location(f"jaxft_recipe_{path.stem}", path)
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
