"""Defines the type of label that is a number."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxft.data.encoding.encoded import ArraySpec
from jaxft.data.sources.labels import NUMBER, Labelled
from jaxft.errors import UserError
from jaxft.losses import cross_entropy
from jaxft.metrics.regression import RegressionState
from jaxft.tasks.base import Log
from jaxft.tasks.labels.settings import LabelSettings

VALUE = "value"  # the label of a head that predicts a number
WORST = 100  # the most predictions of numbers in the error list


class NumberLabel:
    """A number; implements `LabelType` of label_types.py.

    The loss is the squared error of labels that are scaled from `config.data.label_range` to 0..1. Scores are in the
    data's units.
    """

    target = ArraySpec(np.float32)
    selection_metric = "pearson"
    error_columns: tuple[str, ...] = ("gold", "predicted", "difference")

    def __init__(self, labels: Sequence[str], config: LabelSettings):
        for key in ("label_smoothing", "class_weights", "focal_gamma"):
            if getattr(config.loss, key):
                raise UserError(
                    f"config.loss.{key} is not for config.model.problem_type={NUMBER!r}; leave it out"
                )
        self.range = config.data.label_range
        low, high = self.range or (0.0, 1.0)
        self.offset, self.scale = float(low), float(high) - float(low)

    def encode_targets(self, examples: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scaled numbers, float32 [N]."""
        known = np.array([example.label is not None for example in examples], bool)
        values = np.array([0.0 if example.label is None else example.label for example in examples])
        return ((values - self.offset) / self.scale).astype(np.float32), known

    def loss(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns `cross_entropy.squared_error`."""
        return cross_entropy.squared_error(logits[..., 0], labels, weights)

    def divergence(self, first: jax.Array, second: jax.Array, weights: jax.Array) -> jax.Array:
        """Returns half the squared difference, which is the divergence of normal distributions with variance 1."""
        return cross_entropy.squared_error(first[..., 0], second[..., 0], weights)[0] / 2

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Returns the outputs in the data's units."""
        return logits * self.scale + self.offset

    def to_data_units(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters of a model, by path, with a head whose numbers are in the data's units."""
        bias = (
            parameters.get("head/bias", np.zeros(1, np.float32)) * self.scale + self.offset
        )  # GPT-2 has none
        return parameters | {"head/kernel": parameters["head/kernel"] * self.scale, "head/bias": bias}

    def make_state(
        self, examples: Sequence[Labelled], scores: np.ndarray, tuned: Mapping[str, Any]
    ) -> RegressionState:
        """Returns a `RegressionState`."""
        state = RegressionState()
        state.update([example.label for example in examples], scores[:, 0])
        return state

    def tune(self, state: RegressionState) -> dict[str, Any]:
        """Returns nothing, because there is nothing to tune."""
        return {}

    def answer(self, scores: np.ndarray, tuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the number for each example."""
        for row in scores:
            yield {"predicted_value": round(float(row[0]), 6)}

    def evaluation_details(self, state: RegressionState, samples: int, seed: int) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def list_errors(self, gold: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the `WORST` predictions with the largest errors, largest first."""
        rows = []
        for index, (label, answer) in enumerate(zip(gold, answers, strict=True)):
            value = answer["predicted_value"]
            rows.append({"index": index, "gold": label, "predicted": value, "difference": value - label})
        return sorted(rows, key=lambda row: -abs(row["difference"]))[:WORST]

    def check(self, name: str, examples: Sequence[Labelled], log: Log) -> None:
        """Warns about numbers outside `config.data.label_range`, or far from where the head starts."""
        values = [example.label for example in examples]
        low, high = min(values), max(values)
        outside = [e for e in examples if self.range and not self.range[0] <= e.label <= self.range[1]]
        if outside:
            log(
                f"warning: {name}: {len(outside):,} of {len(examples):,} numbers are outside "
                f"config.data.label_range={self.range}, the first {outside[0].label:g} at {outside[0].origin}; the "
                f"numbers run from {low:g} to {high:g}"
            )
        elif low < self.offset - self.scale or high > self.offset + 2 * self.scale:
            log(
                f"warning: the numbers of {name} run from {low:g} to {high:g}, far from "
                f"{self.offset:g} to {self.offset + self.scale:g}, which the head starts at; "
                f"set config.data.label_range=({float(low)}, {float(high)})"
            )

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns correlations, squared error and loss as a line of the log."""
        return (
            f"Pearson {values['pearson']:.4f}, Spearman {values['spearman']:.4f}, mean squared error "
            f"{values['mse']:.4g}, loss {values.get('loss', float('nan')):.4f}"
        )
