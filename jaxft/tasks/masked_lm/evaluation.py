"""Collects the predictions of masked tokens, measures them, and writes the files of an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.metrics.language_model import TokenState
from jaxft.tasks.base import Evaluator, Json, Outputs, Split
from jaxft.tasks.masked_lm.settings import Settings
from jaxft.tasks.report_files import report_metrics


class FilledMasks(NamedTuple):
    """The most probable words of the M masks of a text, in order.

    Attributes:
      words: int32 `[M, K]`, their ids, the most probable first.
      probabilities: float32 `[M, K]`.
    """

    words: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class MaskPredictions:
    """The predictions of the masked tokens of a split, example by example. Iterates over `FilledMasks`.

    Attributes:
      offsets: int64 `[N + 1]`, the first masked token of each example, and the end of the last's.
      nll: float32 `[T]`, nats.
      is_correct: bool `[T]`, whether the token has the highest logit.
      best: the most probable words of all.
    """

    offsets: np.ndarray
    nll: np.ndarray
    is_correct: np.ndarray
    best: FilledMasks

    def __iter__(self) -> Iterator[FilledMasks]:
        for first, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield FilledMasks(self.best.words[first:end], self.best.probabilities[first:end])


class MaskEvaluator(Evaluator[Document, Windows, MaskPredictions, TokenState]):
    """Evaluates the predictions of masked tokens, which are the same tokens in each evaluation of a split."""

    selection_metric = "loss"

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}
        self.method = _describe_method(config)

    def collect(self, split: Split[Document, Windows], outputs: Outputs) -> MaskPredictions:
        """Returns the predictions for the split's examples."""
        windows = split.windows
        columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("token", "example", "nll", "words", "probabilities")
        }
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            window = batch.windows[row, segment]
            size = windows.lengths[window]
            place = ragged_arange(row * arrays["nll"].shape[1] + batch.starts[row, segment], size)
            is_predicted = arrays["is_predicted"].ravel()[place]
            columns["token"].append(ragged_arange(windows.offsets[window], size)[is_predicted])
            columns["example"].append(np.repeat(windows.sentence[window], size)[is_predicted])
            for name in ("nll", "words", "probabilities"):
                values = arrays[name]
                columns[name].append(values.reshape(-1, *values.shape[2:])[place[is_predicted]])
        token, example, nll, words, probabilities = map(np.concatenate, columns.values())
        order = np.argsort(token, kind="stable")
        counts = np.bincount(example, minlength=len(split.examples))
        is_correct = words[:, 0] == windows.input_ids[token]
        best = FilledMasks(words[order], probabilities[order])
        return MaskPredictions(offsets_from_lengths(counts), nll[order], is_correct[order], best)

    def measure(
        self,
        split: Split[Document, Windows],
        predictions: MaskPredictions,
        loss_sum: float,
        weight_sum: float,
    ) -> TokenState:
        """Returns the metric state of perplexity and accuracy, from sums in float64."""
        state = TokenState()
        state.add_tokens(predictions.nll, predictions.is_correct)
        return state

    def metric_names(self, split: Split[Document, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        return list(TokenState().compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns loss, perplexity and accuracy as a line of the log."""
        return (
            f"loss {values['loss']:.4f}, perplexity {values['perplexity']:.2f} a masked token, "
            f"token accuracy {100 * values['token_accuracy']:.2f}"
        )

    def write_evaluation(
        self,
        folder: Path,
        split: Split[Document, Windows],
        state: TokenState,
        predictions: MaskPredictions,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes and prints eval/NAME.json; returns the metrics."""
        metrics = state.compute()
        report_metrics(console, folder, split, self.method, metrics)
        return metrics


def _describe_method(config: Settings) -> str:
    """Describes what is masked, and how texts are cut into windows, because the perplexity depends on it."""
    data = config.data
    units = "words" if data.mask_whole_words else "tokens"
    if data.layout == "blocks":
        windows = f"all documents in a row, in blocks of {data.max_length} tokens"
    else:
        context = f", {data.stride} of them context" if data.stride else ""
        windows = f"documents, longer ones in windows of {data.max_length} tokens{context}"
    return f"{data.mask_probability:.0%} of the {units} masked, the same at each evaluation; {windows}"
