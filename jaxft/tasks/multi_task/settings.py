"""Settings of several tasks with a shared backbone."""

import dataclasses
import re
from typing import Any

from jaxft.config import sections
from jaxft.config.settings import Check, is_finite, is_pair, refuse, require, setting
from jaxft.errors import UserError
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import TASKS, extended_sections

_OF_WORDS, _OF_TEXTS = TASKS["multi_task"].extends
EXAMPLE = f'(("intents", (("task", "{_OF_TEXTS}"),)), ("slots", (("task", "{_OF_WORDS}"),)))'


@dataclasses.dataclass(frozen=True)
class Model(*extended_sections("multi_task", "model")):  # type: ignore[misc]
    """The backbone, and defaults for all tasks."""


@dataclasses.dataclass(frozen=True)
class Data(*extended_sections("multi_task", "data")):  # type: ignore[misc]
    """The data sets of all tasks, and defaults for each."""

    mix: str = setting(
        "size",
        "how often the data sets come: by `size`, by `temperature`, or by `weights`",
        choices=("size", "temperature", "weights"),
    )
    mix_temperature: float = setting(
        1.0, "T of size ** (1 / T)", check=Check(lambda value: value >= 1, "1 or more")
    )
    mix_weights: tuple = setting(
        (),
        "a number for each data set, in the order of `data.train`, such as (1.0, 3.0)",
        example="(1.0, 3.0)",
    )


@dataclasses.dataclass(frozen=True)
class Batch(sections.Batch):
    """The rows of an optimizer step."""

    by_task: bool = setting(False, "a step's rows are of one data set instead of all")


@dataclasses.dataclass(frozen=True)
class Loss(*extended_sections("multi_task", "loss")):  # type: ignore[misc]
    """The sum of the tasks' losses, and defaults for each."""

    balance: str = setting(
        "weights",
        "weights of the tasks' losses: each task's `loss.weight`, or learned `uncertainty` (Kendall et al. 2018)",
        choices=("weights", "uncertainty"),
    )


@dataclasses.dataclass(frozen=True)
class Eval(*extended_sections("multi_task", "eval")):  # type: ignore[misc]
    """The evaluation of all tasks."""


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a run with several tasks."""

    tasks: tuple = setting((), f"names, and the settings that differ for each: {EXAMPLE}", example=EXAMPLE)
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
