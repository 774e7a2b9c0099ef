"""Reads the data sets that a run's settings name, for any task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.tasks.base import Say, Split, Task


def read(
    task: type[Task], config: ConfigDict, say: Say, names: Sequence[str] = ("train", "dev", "test")
) -> dict[str, Split]:
    """The run's splits of these names that there are, without windows.

    Without a dev set a seeded part of the training data is it, which is read for either of the two.
    """
    if config.data.train is None:
        raise UserError("config.data.train is not set: give a file, hub:NAME or demo:NAME/train")
    found = {}
    if config.data.dev is None and ("train" in names or "dev" in names):
        source, fraction = config.data.train, config.data.dev_fraction
        train, dev = task.split_dev(task.read(config, "train", source, say), fraction, config.seed)
        called = f"{fraction:.0%} of {source}, seed {config.seed}"
        say(f"dev: not given; split off {len(dev):,} examples: {called}")
        found = {"train": Split("train", source, train, None), "dev": Split("dev", called, dev, None)}
    for name in names:
        if name not in found and (source := config.data[name]) is not None:
            found[name] = Split(name, source, task.read(config, name, source, say), None)
    return {name: found[name] for name in names if name in found}


def encode(
    task: Task, found: dict[str, Split], tokenizer: Any, config: ConfigDict, say: Say
) -> dict[str, Split]:
    """The splits that `read` found, checked and with windows; `train` is among them."""
    encoded = {
        name: dataclasses.replace(split, windows=task.encode(split.examples, tokenizer, config))
        for name, split in found.items()
    }
    for split in encoded.values():
        task.check(split, found["train"].examples, say)
    return encoded
