"""Settings of several tasks with a shared backbone, and of each of them."""

import dataclasses
import functools
import re
from typing import Any

from jaxft.config import sections
from jaxft.config.settings import (
    Check,
    declarations,
    flatten,
    is_finite,
    is_pair,
    refuse,
    require,
    setting,
)
from jaxft.errors import UserError
from jaxft.tasks.registry import TASKS, extended_sections, schema_of
from jaxft.tasks.settings import LabelLoss

_OF_WORDS, _OF_TEXTS = TASKS["multi_task"].extends
EXAMPLE = f'(("intents", (("task", "{_OF_TEXTS}"),)), ("slots", (("task", "{_OF_WORDS}"),)))'
# Settings that are the same for all tasks, because a text is encoded once for all tasks.
SAME_FOR_ALL = ("data.label_subwords", "data.context", "data.truncation", "data.max_segments")


@dataclasses.dataclass(frozen=True)
class Model(*extended_sections("multi_task", "model")):  # type: ignore[misc]  # bases of the registry
    """The backbone, and defaults for all tasks."""


@dataclasses.dataclass(frozen=True)
class Data(*extended_sections("multi_task", "data")):  # type: ignore[misc]  # bases of the registry
    """The data sets of all tasks, and defaults for each."""

    mix: str = setting(
        "size",
        "how often the data sets come: by `size`, by `temperature`, or by `weights`",
        choices=("size", "temperature", "weights"),
    )
    mix_temperature: float = setting(
        1.0, "T of size ** (1 / T)", check=Check(lambda value: value >= 1, "1 or more")
    )
    mix_weights: tuple[float, ...] = setting(
        (),
        "a number for each data set, in the order of `data.train`, such as (1.0, 3.0)",
        example="(1.0, 3.0)",
    )


@dataclasses.dataclass(frozen=True)
class Batch(sections.Batch):
    """The rows of an optimizer step."""

    by_task: bool = setting(False, "a step's rows are of one data set instead of all")


@dataclasses.dataclass(frozen=True)
class Loss(*extended_sections("multi_task", "loss")):  # type: ignore[misc]  # bases of the registry
    """The sum of the tasks' losses, and defaults for each."""

    balance: str = setting(
        "weights",
        "weights of the tasks' losses: each task's `loss.weight`, or learned `uncertainty` (Kendall et al. 2018)",
        choices=("weights", "uncertainty"),
    )


@dataclasses.dataclass(frozen=True)
class Eval(*extended_sections("multi_task", "eval")):  # type: ignore[misc]  # bases of the registry
    """The evaluation of all tasks."""


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a run with several tasks."""

    tasks: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = setting(
        (), f"names, and the settings that differ for each: {EXAMPLE}", example=EXAMPLE
    )
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    loss: Loss = Loss()
    eval: Eval = Eval()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other, also in the settings of each task."""
        super().check()
        require(bool(self.tasks), "tasks", self.tasks, f"pairs {EXAMPLE}")
        fits = all(
            is_pair(task, tuple) and all(is_pair(item, object) for item in task[1]) for task in self.tasks
        )
        expected = f"pairs of a name and pairs of settings that differ, such as {EXAMPLE}"
        require(fits, "tasks", self.tasks, expected)
        names = [name for name, _ in self.tasks]
        for name in names:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name == "uncertainty" or names.count(name) > 1:
                raise UserError(
                    f"config.tasks: {name!r} cannot be a task's name; expected different ones of letters, digits and "
                    "_, not 'uncertainty'"
                )
        for name, entry in self.tasks:
            keys = [key for key, _ in entry]
            if repeated := [key for key in keys if keys.count(key) > 1]:
                raise UserError(f"config.tasks, {name}: {repeated[0]!r} is given twice; leave one out")
        loss, data = self.loss, self.data
        require(not loss.r_drop, "loss.r_drop", loss.r_drop, "0, for it is for tasks of config.tasks")
        require(not data.context, "data.context", data.context, "False with config.task='multi_task'")
        weights = data.mix_weights
        are_numbers = all(
            isinstance(weight, int | float) and weight > 0 and is_finite(weight) for weight in weights
        )
        require(
            bool(weights) == (data.mix == "weights") and are_numbers,
            "data.mix_weights",
            weights,
            "numbers above 0, one a data set, with config.data.mix='weights', and else ()",
        )
        make_task_configs(self)

    def check_shards(self) -> None:
        """Raises `UserError` if the training data cannot be sharded."""
        super().check_shards()
        if self.data.mix != "size" or self.batch.by_task:
            raise refuse("data.shards", self.data.shards, "1 where data sets are mixed in other ways")

    def task_names(self) -> tuple[str, ...]:
        """Returns the names of the tasks."""
        return tuple(name for name, _ in self.tasks)

    def mix_options(self) -> dict[str, Any]:
        """Returns the arguments of `data.batching.mixed.Mix`, which mixes several data sets."""
        data = self.data
        return {
            "kind": data.mix,
            "temperature": data.mix_temperature,
            "weights": data.mix_weights,
            "by_task": self.batch.by_task,
        }


def make_task_configs(config: Settings) -> dict[str, sections.Settings]:
    """Returns each task's settings by name. Raises `UserError` for a setting that cannot differ between tasks."""
    shared = tuple(flatten(config).items())
    return {name: _make_task_config(shared, name, entry) for name, entry in config.tasks}


def read_loss_weights(config: Settings) -> dict[str, float]:
    """Returns the weight of each task's loss by name."""
    weights = {}
    for name, task_config in make_task_configs(config).items():
        assert isinstance(task_config.loss, LabelLoss)
        weights[name] = task_config.loss.weight
    return weights


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
