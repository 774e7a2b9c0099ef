"""Builds each task's settings: the run's settings, overridden by the task's entry in `config.tasks`."""

import functools
from typing import Any

from jaxft.config import sections
from jaxft.config.settings import declarations, flatten
from jaxft.errors import UserError
from jaxft.tasks.registry import schema_of

# Settings that are the same for all tasks, because a text is encoded once for all tasks.
SAME_FOR_ALL = ("data.label_subwords", "data.context", "data.truncation", "data.max_segments")


def make_task_configs(config: sections.Settings) -> dict[str, sections.Settings]:
    """Returns each task's settings by name. Raises `UserError` for a setting that cannot differ between tasks."""
    shared = tuple(flatten(config).items())
    return {name: _make_task_config(shared, name, entry) for name, entry in config.tasks}


@functools.cache
def _make_task_config(
    shared: tuple[tuple[str, Any], ...], name: str, entry: tuple[tuple[str, Any], ...]
) -> sections.Settings:
    where = f"config.tasks, {name}"
    kind, kinds = dict(entry).get("task"), schema_of(dict(shared)["task"]).extends
    if kind is None:
        raise UserError(f"{where}: what kind of task is it? Give ('task', ...) of {', '.join(kinds)}")
    if kind not in kinds:
        raise UserError(f"{where}: task={kind!r}, but tasks that share a backbone are {', '.join(kinds)}")
    schema = schema_of(kind)
    by_task = ("task", "data.format", *_keys_of_task(schema.root))
    for key, _ in entry:
        if key in schema.declarations and key not in by_task:
            raise UserError(
                f"{where}: {key!r} is one for all tasks; a task's own can be {', '.join(by_task)}"
            )
    inherited = {key: value for key, value in shared if key in schema.declarations and key != "eval.metric"}
    try:
        return schema.build(inherited | dict(entry), where)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None


def _keys_of_task(root: type) -> list[str]:
    """Returns the keys that only some runs have, except keys that are the same for all tasks."""
    return [
        key
        for key in declarations(root)
        if key not in declarations(sections.Settings) and key not in SAME_FOR_ALL
    ]
