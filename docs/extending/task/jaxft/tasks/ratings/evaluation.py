"""Collects predicted ratings, measures them, and writes the files of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.io.files import write_json
from jaxft.metrics.regression import RegressionState
from jaxft.tasks.base import Evaluator, Json, Outputs, Split
from jaxft.tasks.ratings.settings import Settings


class RatingEvaluator(Evaluator[LabelledText, Windows, np.ndarray, RegressionState]):
    """Evaluates ratings. Predictions are int64 [texts]."""

    selection_metric = "mae"  # the mean number of stars by which a prediction is wrong

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}

    def collect(self, split: Split[LabelledText, Windows], outputs: Outputs) -> np.ndarray:
        """Returns the rating of each text: 1, and 1 for each output that says yes."""
        ratings = np.zeros(len(split.examples), np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            text = split.windows.sentence[batch.windows[row, segment]]
            ratings[text] = 1 + (arrays["logits"][row, segment] > 0).sum(axis=-1)
        return ratings

    def measure(
        self, split: Split[LabelledText, Windows], ratings: np.ndarray, loss_sum: float, weight_sum: float
    ) -> RegressionState:
        """Returns the metric state of a split."""
        state = RegressionState()
        state.update([example.label for example in split.examples], ratings, loss_sum, weight_sum)
        return state

    def metric_names(self, split: Split[LabelledText, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes."""
        return list(self.measure(split, np.ones(len(split.examples)), 0.0, 1.0).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""
        return f"loss {values['loss']:.4f}, wrong by {values['mae']:.3f} stars"

    def write_evaluation(
        self,
        folder: Path,
        split: Split[LabelledText, Windows],
        state: RegressionState,
        ratings: np.ndarray,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes eval/NAME.json, prints the metrics, and returns them."""
        metrics = state.compute()
        write_json(folder / "eval" / f"{split.name}.json", {"data": split.source, "metrics": metrics})
        console.print(f"{split.name} ({split.source}): {self.summarize(metrics)}")
        return metrics
