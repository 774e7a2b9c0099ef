"""The metric states of several tasks as one, with a metric composed of theirs."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ComposedState:
    """States by task, the `weights` of their losses, and the name of the metric that is asked for; see `compose`."""

    of: dict[str, Any]
    weights: dict[str, float]
    asked: str

    def compute(self) -> dict[str, float]:
        """Each task's metrics as NAME/METRIC, the weighted sum of their losses, and what is asked for."""
        found = {name: state.compute() for name, state in self.of.items()}
        values = {f"{name}/{key}": value for name, one in found.items() for key, value in one.items()}
        losses = [self.weights[name] * one["loss"] for name, one in found.items() if "loss" in one]
        if losses:
            values["loss"] = sum(losses)
        return values | compose(self.asked, values)


def compose(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """The mean of the metrics that `name` has "+" between, under that name; nothing if one of them isn't there."""
    parts = [part.strip() for part in name.split("+")]
    if name in values or not all(part in values for part in parts):
        return {}
    return {name: sum(values[part] for part in parts) / len(parts)}
