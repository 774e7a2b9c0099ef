"""Makes the settings of a run, for commands and recipes, from those of every run and those of its task."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxft.config import loading, recipes, reference, sections
from jaxft.config.settings import Schema, defaults, find_near, flatten
from jaxft.errors import UserError
from jaxft.tasks.registry import TASKS, schema_of

# Which may differ from those of the adapter that a run starts from: they say how it is trained.
CHANGEABLE = tuple(f"adapter.{name}" for name in ("dropout", "deltaT", "beta1", "beta2", "orth_reg_weight"))
MINILM = sections.MINILM
Settings = sections.Settings


def default_config(task: str) -> ConfigDict:
    """Returns every setting of a run of `task` with its default, for a recipe to change.

    Raises:
      UserError: `task` is not one of `TASKS`.
    """
    config = schema_of(task).config_dict()
    config.task = task
    return config


def load_settings(
    config: loading.Config,
    changes: Sequence[str] | Mapping[str, Any] = (),
    log: Callable[[str], None] = lambda line: None,
) -> Settings:
    """Returns the checked settings of a recipe with `changes`, with those of the adapter that the run starts from.

    See `config.loading.load`.
    """
    settings = loading.load(config, changes, schema_of, log)
    address = settings.adapter.init_from
    if address is None:
        return settings
    return _add_adapter(settings, address, loading.list_set_keys(config, changes, "adapter.init_from"))


def _add_adapter(settings: Settings, address: str, changed: Collection[str]) -> Settings:
    """Returns the settings with those that describe the adapter in PEFT's files at an address.

    A setting with its default counts as unset, as recipes in Python hold all settings, unless it is among `changed`,
    those that are set on purpose.

    Raises:
      UserError: the adapter is not there or not supported, or has another value than the run sets.
    """
    from jaxft.adapters.peft.config import read_settings  # slow, and needed by few
    from jaxft.hub.adapter_files import read_adapter

    where, schema = f"config.adapter.init_from={address}", schema_of(settings.task)
    try:
        values = {f"adapter.{name}": value for name, value in read_settings(read_adapter(address)).items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    flat, unset = flatten(settings), defaults(schema.root)
    is_set = {key: key in changed or flat[key] != unset[key] for key in values}
    for key, value in values.items():
        is_same = flat[key] == schema.convert(key, value, where)
        if is_set[key] and not is_same and key not in CHANGEABLE:
            raise UserError(
                f"config.{key}={flat[key]!r}: the adapter of {where} has {value!r}; leave the setting out"
            )
    changes = {key: value for key, value in values.items() if key not in CHANGEABLE or not is_set[key]}
    return schema.build(flat | changes, where)


def settings_from_config(config: ConfigDict | Mapping[str, Any], where: str = "config") -> Settings:
    """Returns the checked settings of a recipe's `ConfigDict`, or of nested or flat values.

    Args:
      config: the `ConfigDict` or the values.
      where: the source of the values, for messages.

    Raises:
      UserError: a key is unknown, a value has the wrong type, or no run can have the values.
    """
    values = recipes.flatten_values(config.to_dict() if isinstance(config, ConfigDict) else config, where)
    return schema_of(values.get("task"), where).build(values, where)


def all_schemas() -> list[Schema]:
    """Returns the schemas of all tasks."""
    return [schema_of(task) for task in TASKS]


def find_setting(name: str) -> list[str]:
    """Returns the settings, of any task, that a user may mean by `name`; see `settings.find_near`."""
    known = {key: declared for schema in all_schemas() for key, declared in schema.declarations.items()}
    return find_near(name, known)


if __name__ == "__main__":  # writes docs/settings.md
    print(reference.markdown_page(all_schemas()), end="")
