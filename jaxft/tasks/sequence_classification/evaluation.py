"""Collects the scores of texts, measures them, and writes the files of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.io.files import write_json, write_lines
from jaxft.tasks.base import Evaluator, Json, MetricState, Outputs, Split
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.report_files import print_report
from jaxft.tasks.sequence_classification import report
from jaxft.tasks.sequence_classification.label_types import make_label_type
from jaxft.tasks.sequence_classification.settings import Settings


class TextEvaluator(Evaluator[LabelledText, Windows, np.ndarray, MetricState]):
    """Evaluates labels or numbers of texts.

    Predictions are scores, float64 [texts, C]. The logits of a text in several windows are averaged.
    """

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}
        self._labels = labels
        self._label_type = make_label_type(labels, config)
        self.selection_metric = self._label_type.selection_metric
        self.method = _describe_method(config)

    def collect(self, split: Split[LabelledText, Windows], outputs: Outputs) -> np.ndarray:
        """Returns the scores of each text, float64 [texts, C]."""
        sums = np.zeros((len(split.examples), len(self._labels)))
        counts = np.zeros(len(split.examples), np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            text = split.windows.sentence[batch.windows[row, segment]]
            np.add.at(sums, text, arrays["logits"][row, segment])
            np.add.at(counts, text, 1)
        if unread := int((counts == 0).sum()):
            raise AssertionError(f"{unread} texts of {split.name} were not scored")
        return self._label_type.score(sums / counts[:, None])

    def tune(self, split: Split[LabelledText, Windows], scores: np.ndarray) -> None:
        """Chooses the thresholds, if a text may have several labels."""
        self.tuned = self._label_type.tune(self._label_type.make_state(split.examples, scores, {}))

    def measure(
        self, split: Split[LabelledText, Windows], scores: np.ndarray, loss_sum: float, weight_sum: float
    ) -> MetricState:
        """Returns the metric state of a split; see `LabelType.make_state`."""
        state = self._label_type.make_state(split.examples, scores, self.tuned)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split[LabelledText, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        scores = np.zeros((len(split.examples), len(self._labels)))
        return list(self.measure(split, scores, 0.0, 1.0).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""
        return self._label_type.summarize(values)

    def write_evaluation(
        self,
        folder: Path,
        split: Split[LabelledText, Windows],
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
        records = [
            _make_record(example) | answer for example, answer in zip(split.examples, answers, strict=True)
        ]
        write_lines(folder / "predictions" / f"{split.name}.jsonl", prediction_lines(records))
        errors = self._label_type.list_errors([example.label for example in split.examples], answers)
        text_columns = list(_text_fields(split.examples[0]))
        rows = [row | records[row["index"]] for row in errors]
        lines = error_lines(rows, (*self._label_type.error_columns, *text_columns))
        write_lines(folder / "errors" / f"{split.name}.tsv", lines)
        full = report.render_report(record)
        print_report(console, folder, split.name, report.render_report(record, brief=True), full)
        console.print(f"{split.name}: {len(records):,} texts scored, 0 unscored")
        return metrics


def _text_fields(example: LabelledText) -> dict[str, str]:
    return {"text": example.text} | ({} if example.pair is None else {"text_pair": example.pair})


def _make_record(example: LabelledText) -> dict[str, Any]:
    return _text_fields(example) | {"label": example.label}


def _describe_method(config: Settings) -> str:
    """Describes which part of texts longer than a window is read."""
    length = config.data.max_length
    if config.data.truncation == "windows":
        return f"texts whole, long ones by the mean of the logits of their windows of {length} tokens"
    kept = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[config.data.truncation]
    return f"the {kept} of each text that is longer than {length} tokens"
