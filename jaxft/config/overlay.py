"""Lays the values of one source of settings over those of the recipe beneath it."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Log = Callable[[str], None]

_PATH = re.compile(r"[^:*?#]+")  # no address, no pattern of several files, no filter or shard


class Entry(NamedTuple):
    """A value in a recipe, unconverted, and the file that sets it."""

    value: Any
    where: str


def overlay(below: Mapping[str, Entry], above: Mapping[str, Entry], where: str, log: Log) -> dict[str, Entry]:
    """Returns the values of a recipe, `below`, changed by those `above` it: of a file based on it, or the command line.

    The recipe's dev and test sets belong to its training data: with other training data they are left out, because its
    scores on them would say nothing. The sizes of a new model are left out with another checkpoint; the learning rate
    stays, and is named, because larger models need smaller ones. The recipe's `batch.rows` is left out where
    `batch.examples` is set, and the other way round.

    Args:
      below: the values of the recipe.
      above: the values that change them.
      where: the name of the recipe, for messages.
      log: prints a line about data sets that are left out, and about a learning rate that stays.
    """

    def is_set(entries: Mapping[str, Entry], key: str) -> bool:
        return key in entries and str(entries[key].value).lower() != "none"

    left_out = []
    if is_set(above, "data.train") and is_set(below, "data.train"):
        train = str(above["data.train"].value)
        if train != str(below["data.train"].value):
            left_out = [key for key in ("data.dev", "data.test") if key not in above and is_set(below, key)]
        is_missing = _PATH.fullmatch(train) and not os.path.exists(train)  # an error, which will say enough
        if left_out and not is_missing:
            sets = " and ".join(f"config.{key}={below[key].value}" for key in left_out)
            effects = {"data.dev": "dev is split off train", "data.test": "there is no test set"}
            log(
                f"config.data.train={train} is not the training data of {where}, so its {sets} "
                f"{'are' if len(left_out) > 1 else 'is'} left out: {' and '.join(effects[key] for key in left_out)}; "
                f"name {' and '.join(f'--config.{key}' for key in left_out)} for others"
            )
    if is_set(above, "model.checkpoint") and is_set(below, "model.checkpoint"):
        if above["model.checkpoint"].value != below["model.checkpoint"].value:
            left_out.append("model.sizes")
            if is_set(below, "optim.lr") and "optim.lr" not in above:
                log(
                    f"config.model.checkpoint={above['model.checkpoint'].value} is not the checkpoint of {where}, "
                    f"whose config.optim.lr={below['optim.lr'].value} stays; name --config.optim.lr for another"
                )
    for key, other in (("batch.rows", "batch.examples"), ("batch.examples", "batch.rows")):
        if is_set(above, key):
            left_out.append(other)
    return {key: entry for key, entry in below.items() if key not in left_out} | dict(above)
