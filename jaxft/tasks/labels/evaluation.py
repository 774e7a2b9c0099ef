"""Collects the scores of labelled examples, measures them, and writes the files of an evaluation."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from jaxft.data.sources.labels import Labelled
from jaxft.io.files import write_json, write_lines
from jaxft.tasks.base import Encoding, Evaluator, Json, MetricState, Outputs, Split
from jaxft.tasks.labels import report
from jaxft.tasks.labels.label_types import make_label_type
from jaxft.tasks.labels.settings import LabelSettings
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.report_files import print_report

LabelledExample = TypeVar("LabelledExample", bound=Labelled)


class LabelEvaluator(Evaluator[LabelledExample, Encoding, np.ndarray, MetricState]):
    """Evaluates labels or numbers of examples.

    Predictions are scores, float64 [N, C]. The logits of an example in several windows are averaged.

    Attributes:
      noun: the name of an example, in the singular.
    """

    noun: str

    def __init__(self, labels: Sequence[str], config: LabelSettings):
        self.tuned = {}
        self._labels = labels
        self._label_type = make_label_type(labels, config)
        self.selection_metric = self._label_type.selection_metric

    @abc.abstractmethod
    def describe(self, example: LabelledExample) -> dict[str, str]:
        """Returns what the files of an evaluation show of an example."""

    @abc.abstractmethod
    def number_examples(self, encoding: Encoding, windows: np.ndarray) -> np.ndarray:
        """Returns the number of the example of each of `windows`, both int `[K]`."""

    def collect(self, split: Split[LabelledExample, Encoding], outputs: Outputs) -> np.ndarray:
        """Returns the scores of each example, float64 [N, C]."""
        sums = np.zeros((len(split.examples), len(self._labels)))
        counts = np.zeros(len(split.examples), np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            numbers = self.number_examples(split.windows, batch.windows[row, segment])
            np.add.at(sums, numbers, arrays["logits"][row, segment])
            np.add.at(counts, numbers, 1)
        if unread := int((counts == 0).sum()):
            raise AssertionError(f"{unread} {self.noun}s of {split.name} were not scored")
        return self._label_type.score(sums / counts[:, None])

    def tune(self, split: Split[LabelledExample, Encoding], scores: np.ndarray) -> None:
        """Chooses the thresholds, if an example may have several labels."""
        self.tuned = self._label_type.tune(self._label_type.make_state(split.examples, scores, {}))

    def measure(
        self, split: Split[LabelledExample, Encoding], scores: np.ndarray, loss_sum: float, weight_sum: float
    ) -> MetricState:
        """Returns the metric state of a split; see `LabelType.make_state`."""
        state = self._label_type.make_state(split.examples, scores, self.tuned)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split[LabelledExample, Encoding]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        scores = np.zeros((len(split.examples), len(self._labels)))
        return list(self.measure(split, scores, 0.0, 1.0).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""
        return self._label_type.summarize(values)

    def write_evaluation(
        self,
        folder: Path,
        split: Split[LabelledExample, Encoding],
        state: MetricState,
        scores: np.ndarray,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes eval/NAME.json, predictions/NAME.jsonl and errors/NAME.tsv; prints the report; returns the metrics.

        Args:
          samples: number of resamples of the bootstrap; only single labels have intervals.
        """
        metrics = state.compute()
        details = self._label_type.evaluation_details(state, samples, seed)
        record = report.evaluation_record(metrics, data=split.source, method=self.method, details=details)
        write_json(folder / "eval" / f"{split.name}.json", record)
        answers = list(self._label_type.answer(scores, self._label_type.tune(state)))
        records: list[dict[str, Any]] = [
            self.describe(example) | {"label": example.label} | answer
            for example, answer in zip(split.examples, answers, strict=True)
        ]
        write_lines(folder / "predictions" / f"{split.name}.jsonl", prediction_lines(records))
        errors = self._label_type.list_errors([example.label for example in split.examples], answers)
        example_columns = list(self.describe(split.examples[0]))
        rows = [row | records[row["index"]] for row in errors]
        lines = error_lines(rows, (*self._label_type.error_columns, *example_columns))
        write_lines(folder / "errors" / f"{split.name}.tsv", lines)
        full = report.render_report(record, self.noun)
        brief = report.render_report(record, self.noun, brief=True)
        print_report(console, folder, split.name, brief, full)
        noun = self.noun if len(records) == 1 else f"{self.noun}s"
        console.print(f"{split.name}: {len(records):,} {noun} scored, 0 unscored")
        return metrics
