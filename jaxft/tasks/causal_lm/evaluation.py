"""Collects the scores of tokens, generates targets of prompts, measures both, and writes the files of an evaluation."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from jaxft.data.encoding.documents import encode_prompts
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.generation.options import GenerationOptions
from jaxft.hub.processors import Processor, tokenizer_of
from jaxft.io.files import write_lines
from jaxft.metrics.generated_text import GeneratedTextState
from jaxft.metrics.language_model import LanguageModelState
from jaxft.tasks.base import Evaluator, Generate, Json, Outputs, Split
from jaxft.tasks.causal_lm.settings import Settings
from jaxft.tasks.lines import prediction_lines
from jaxft.tasks.report_files import report_metrics

SHOWN, SHOWN_CHARACTERS = 3, 200  # the most generated targets, and characters of each, that are printed


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of each window of a split, summed over its labelled tokens."""

    nll: np.ndarray  # float64 [N], nats
    correct: np.ndarray  # int64 [N], number of tokens whose label has the highest logit
    tokens: np.ndarray  # int64 [N]
    generated: list[str] = dataclasses.field(default_factory=list)  # the generated targets of the first pairs


class LanguageModelEvaluator(Evaluator[Document, Windows, Scores, LanguageModelState]):
    """Evaluates next tokens, and generated targets of prompts. Predictions are the `Scores` of a split."""

    selection_metric = "loss"

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}
        self._config = config
        self.method = _describe_method(config)

    def collect(self, split: Split[Document, Windows], outputs: Outputs) -> Scores:
        """Returns the `Scores` of the split's windows."""
        count = len(split.windows)
        nll, correct = np.zeros(count), np.zeros(count, np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            window = batch.windows[row, segment]
            size = split.windows.lengths[window]
            row_length = arrays["nll"].shape[1]
            position = ragged_arange(row * row_length + batch.starts[row, segment], size)
            window_of_token = np.repeat(window, size)
            token_nll = arrays["nll"].ravel()[position].astype(np.float64)
            nll += np.bincount(window_of_token, token_nll, minlength=count)
            is_correct = arrays["correct"].ravel()[position]
            correct += np.bincount(window_of_token[is_correct], minlength=count)
        window_of_token = np.repeat(np.arange(count), split.windows.lengths)
        tokens = np.bincount(window_of_token[split.windows.labels >= 0], minlength=count)
        return Scores(nll, correct, tokens)

    def add_generated(
        self,
        split: Split[Document, Windows],
        scores: Scores,
        processor: Processor,
        generate: Generate,
    ) -> Scores:
        """Adds the generated targets of the first `config.eval.generate` prompts, if the data has prompts."""
        settings, data = self._config.eval, self._config.data
        if data.template is None or not settings.generate:
            return scores
        options = GenerationOptions(max_new_tokens=settings.max_new_tokens, beams=settings.beams)
        # Prompts are cut to leave room for the targets.
        room = self._config.text_length - settings.max_new_tokens
        prompts = encode_prompts(split.examples[: settings.generate], tokenizer_of(processor), room)
        return dataclasses.replace(scores, generated=generate(prompts, options))

    def measure(
        self, split: Split[Document, Windows], scores: Scores, loss_sum: float, weight_sum: float
    ) -> LanguageModelState:
        """Returns the metric state of perplexities and accuracy, from sums in float64."""
        return _state(split, scores)

    def metric_names(self, split: Split[Document, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        ones = np.ones(len(split.windows), np.int64)
        return list(_state(split, Scores(ones, ones, ones)).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns loss, perplexity, bits per byte and accuracy as a line of the log."""
        return (
            f"loss {values['loss']:.4f}, perplexity {values['perplexity']:.2f} a token, "
            f"{values['bits_per_byte']:.3f} bits a byte, token accuracy {100 * values['token_accuracy']:.2f}"
        )

    def write_evaluation(
        self,
        folder: Path,
        split: Split[Document, Windows],
        state: LanguageModelState,
        scores: Scores,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes and prints eval/NAME.json and the generated targets (predictions/NAME.jsonl); returns the metrics."""
        metrics = state.compute()
        pairs = list(zip(split.examples, scores.generated, strict=False))
        if pairs:
            generated_state = GeneratedTextState()
            for text, target in pairs:
                generated_state.update(target, text.references)
            metrics |= generated_state.compute()
        report_metrics(console, folder, split, self.method, metrics)
        if pairs:
            _write_generated(folder / "predictions" / f"{split.name}.jsonl", pairs, console)
        return metrics


def _write_generated(path: Path, pairs: Sequence[tuple[Document, str]], console: Console) -> None:
    """Writes the generated target of each prompt as a JSON line, and prints the first ones."""
    records = [
        {"prompt": text.prompt, "references": text.references, "prediction": target} for text, target in pairs
    ]
    write_lines(path, prediction_lines(records))
    for text, target in pairs[:SHOWN]:
        for name, shown in (("generated", target), ("reference", text.references[0])):
            console.print(f"  {name}: {' '.join(shown.split())[:SHOWN_CHARACTERS]}", markup=False)


def _describe_method(config: Settings) -> str:
    """Describes how texts are cut into windows, because the perplexity depends on it."""
    data = config.data
    if data.template is not None:
        return f"targets and their end given the prompt, in windows of {data.max_length} tokens"
    if data.layout == "blocks":
        return (
            f"all documents in a row, in blocks of {data.max_length} tokens, the first of each not predicted "
            "(grouped as by transformers' run_clm.py, which puts no end of text between them)"
        )
    context = f"sliding windows of {data.max_length} tokens, {data.stride} of them context"
    plain = f"windows of {data.max_length} tokens without context from the window before"
    return f"every token and the end of each document, longer ones in {context if data.stride else plain}"


def _state(split: Split[Document, Windows], scores: Scores) -> LanguageModelState:
    return LanguageModelState(
        nll=float(scores.nll.sum()),
        token_count=int(scores.tokens.sum()),
        correct_count=int(scores.correct.sum()),
        word_count=int(split.windows.column("text_words").sum(dtype=np.int64)),
        byte_count=int(split.windows.column("text_bytes").sum(dtype=np.int64)),
    )
