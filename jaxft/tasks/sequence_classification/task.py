"""Text classification: predicts a label, several labels or a number for each text or pair, from pooled states."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, BatchSpec
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import split_dev_labelled_texts
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.labels import NUMBER, SINGLE
from jaxft.errors import UserError
from jaxft.io.files import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.sequence import ScoreHead, SequenceClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import FAMILIES, make_backbone
from jaxft.models.runtime import Runtime
from jaxft.tasks.base import Log, Split, cache_folder, find_head_order, group_by_words, loss_with_r_drop
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.report_files import print_report
from jaxft.tasks.sequence_classification import data, report
from jaxft.tasks.sequence_classification.label_types import LABEL_TYPES, LabelType
from jaxft.tasks.sequence_classification.number_label import VALUE
from jaxft.tasks.settings import resolve_max_segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO_POOL = {"bert": "pooler", "gpt2": "last"}  # architecture -> the pooling of transformers' class


def resolve_pool(config: Settings, model_type: str) -> str:
    """Returns the pooling of hidden states: `config.model.pool`, or the meaning of "auto" for an architecture."""
    return AUTO_POOL[model_type] if config.model.pool == "auto" else config.model.pool


def has_transformers_class(config: Settings, model_type: str) -> bool:
    """Returns True if transformers' class for sequence classification computes the same as a model of `config`.

    That class has only one way of pooling. For GPT-2 it has no bias, which numbers in the data's units need.
    """
    needs_missing_bias = model_type == "gpt2" and config.model.problem_type == NUMBER
    return resolve_pool(config, model_type) == AUTO_POOL[model_type] and not needs_missing_bias


class SequenceClassification:
    """Predicts labels or numbers for texts. `config.model.problem_type` chooses from `label_types.LABEL_TYPES`.

    Predictions are scores, float64 [texts, C]. The logits of a text in several windows are averaged.
    """

    model_types = ("bert", "gpt2")
    reads_words = False
    predicts_tokens = False
    compares_with_train = False

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        self.labels = labels
        self.tuned: dict[str, Any] = {}
        self.head_dropout = head_dropout
        self.config = config
        self.label_type: LabelType = LABEL_TYPES[config.model.problem_type](labels, config)
        self.batch_spec = BatchSpec(self.label_type.arrays, resolve_max_segments(config.data))
        self.selection_metric = self.label_type.selection_metric
        first, second = "Anna moved to Berlin.", "She lives in Berlin now."
        pair = {config.data.text or "text": first, config.data.text_pair: second}
        self.example_input = json.dumps(pair) if config.data.text_pair else first
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1
        self.method = _method(config)

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[LabelledText]:
        """Returns the texts of `source`; see `data.read_texts`."""
        return data.read_texts(config.data, config.model.problem_type, name, source, log)

    @staticmethod
    def split_dev(
        examples: Sequence[LabelledText], fraction: float, seed: int
    ) -> tuple[list[LabelledText], list[LabelledText]]:
        """Splits examples into (train, dev). Single labels keep their shares."""
        return split_dev_labelled_texts(examples, fraction, seed)

    @staticmethod
    def find_labels(examples: Sequence[LabelledText]) -> list[str | float]:
        """Returns the names of the labels; for numbers the least and the greatest."""
        return data.find_labels(examples)

    @staticmethod
    def make_labels(found_labels: Sequence[str | float]) -> list[str]:
        """Returns the sorted labels, or `VALUE` if labels are numbers; see `data.make_labels`."""
        return data.make_labels(found_labels)

    @staticmethod
    def iterate_texts(train: Sequence[LabelledText]) -> Iterator[str]:
        """Yields texts and their pairs."""
        return (text for example in train for text in (example.text, example.pair) if text is not None)

    def check(self, split: Split, train: Sequence[LabelledText], log: Log) -> None:
        """Warns about labels that the model cannot predict, and logs the findings of `data.check_texts`."""
        self.label_type.check(split.name, split.examples, log)
        data.check_texts(split, train, self.config.data, self.labels, log)

    def encode(
        self,
        examples: Sequence[LabelledText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of examples; see `encode_labelled_texts`."""
        examples = examples if only is None else examples[only.start : only.stop]
        labels, known = self.label_type.encode_targets(examples)
        return encode_labelled_texts(
            examples,
            labels,
            known,
            tokenizer,
            max_length=config.data.max_length,
            truncation=config.data.truncation,
            stride=config.data.stride,
            cache_dir=cache_folder(config.data.cache_dir) if cached else None,
        )

    def output_counts(self, windows: Windows) -> np.ndarray | None:
        """Returns 1 for each window, or None if the head pools all positions."""
        return None if self.config.model.pool in ("mean", "max") else np.ones(len(windows), np.int64)

    # ---------------------------------------------------------------- model

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `SequenceClassifier` over a backbone of `model_config`.

        Raises:
          UserError: the backbone does not support `config.model.pool`.
        """
        causal = FAMILIES[model_config.model_type].is_causal
        pool = resolve_pool(self.config, model_config.model_type)
        if causal and pool in ("pooler", "cls"):
            raise UserError(
                f"config.model.pool={pool!r}: the first token of a GPT-2 sees only itself, and there is no pooler; "
                "expected 'last' (which 'auto' means), 'mean' or 'max'"
            )
        return SequenceClassifier(
            make_backbone(model_config, runtime, rngs=rngs, **({"pooler": True} if pool == "pooler" else {})),
            num_labels=len(self.labels),
            pool=pool,
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            head_class=ScoreHead if causal else Linear,
        )

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Returns the label type's loss as a weighted sum over windows, and the sum of the weights."""
        labels, weights = batch["labels"], batch["weights"]
        return loss_with_r_drop(
            lambda dropout: _logits(model, batch, dropout),
            lambda logits: self.label_type.loss(logits, labels, weights),
            lambda first, second: self.label_type.divergence(first, second, weights),
            self.r_drop,
            dropout,
        )

    def logits(self, model, batch) -> jax.Array:
        """Returns the outputs for each segment without dropout, float32 [R, S, C]. Numbers are in the data's units."""
        logits = _logits(model, batch, None)
        return self.label_type.score(logits) if self.labels == [VALUE] else logits

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in a checkpoint's head, if it pools and has the kind of labels as here."""
        problem_type = hf_config.get("problem_type") or SINGLE
        same = problem_type == self.config.model.problem_type != NUMBER
        if not (same and has_transformers_class(self.config, hf_config["model_type"])):
            return None
        return find_head_order(hf_config, "ForSequenceClassification", self.labels)

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, with a head whose numbers are in the data's units."""
        if self.labels != [VALUE]:
            return parameters
        offset, scale = self.label_type.offset, self.label_type.scale
        [kernel] = parameters.keys() & {"head/kernel", "head/score/kernel"}  # GPT-2's head has no bias
        bias = parameters.get("head/bias", np.zeros(1, np.float32)) * scale + offset
        return parameters | {kernel: parameters[kernel] * scale, "head/bias": bias}

    def predict(self, model, batch):
        """Returns {"logits": float32 [R, S, C]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits}, *self.label_type.loss(logits, batch["labels"], batch["weights"])

    def encode_prompts(self, examples, tokenizer, config) -> list[list[int]]:
        """Returns no prompts, because labels are not text."""
        return []

    # ---------------------------------------------------------------- evaluation

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> np.ndarray:
        """Returns the scores of each text, float64 [texts, C]."""
        sums = np.zeros((len(split.examples), len(self.labels)))
        counts = np.zeros(len(split.examples), np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            text = split.windows.sentence[batch.windows[row, segment]]
            np.add.at(sums, text, arrays["logits"][row, segment])
            np.add.at(counts, text, 1)
        if unread := int((counts == 0).sum()):
            raise AssertionError(f"{unread} texts of {split.name} were not scored")
        return self.label_type.score(sums / counts[:, None])

    def predict_stream(
        self,
        examples: Iterable[LabelledText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[LabelledText, dict[str, Any]]]]:
        """Predicts texts while they arrive; yields chunks of (example, answer record) in order.

        Args:
          examples: the texts or pairs; None where the next one may take long to arrive.
          tokenizer: the tokenizer.
          config: the run's settings.
          outputs: returns the model's outputs for windows.
          max_words: the most words in a chunk, unless a single text has more. Only one chunk is in memory at a time.
        """
        for chunk in group_by_words(examples, _count_words, max_words):
            windows = self.encode(chunk, tokenizer, config, cached=False)
            scores = self.collect(Split("input", "input", chunk, windows), outputs(windows))
            yield list(zip(chunk, self.label_type.answer(scores, self.tuned), strict=True))

    def tune(self, split: Split, scores: np.ndarray) -> None:
        """Chooses the thresholds, if a text may have several labels."""
        self.tuned = self.label_type.tune(self.label_type.make_state(split.examples, scores, {}))

    def measure(self, split: Split, scores: np.ndarray, loss_sum: float, weight_sum: float) -> Any:
        """Returns the metric state of a split; see `LabelType.make_state`."""
        state = self.label_type.make_state(split.examples, scores, self.tuned)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        scores = np.zeros((len(split.examples), len(self.labels)))
        return list(self.measure(split, scores, 0.0, 1.0).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """Returns the metrics as a line of the log."""
        return self.label_type.summarize(values)

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: Any,
        scores: np.ndarray,
        *,
        seen: Sequence[Any],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes eval/NAME.json, predictions/NAME.jsonl and errors/NAME.tsv; prints the report; returns the metrics.

        Args:
          samples: number of resamples of the bootstrap; only single labels have intervals.
        """
        metrics = state.compute()
        details = self.label_type.evaluation_details(state, samples, seed)
        record = report.evaluation_record(metrics, data=split.source, method=self.method, details=details)
        write_json(folder / "eval" / f"{split.name}.json", record)
        answers = list(self.label_type.answer(scores, self.label_type.tune(state)))
        records = [
            _make_record(example) | answer for example, answer in zip(split.examples, answers, strict=True)
        ]
        write_lines(folder / "predictions" / f"{split.name}.jsonl", prediction_lines(records))
        errors = self.label_type.list_errors([example.label for example in split.examples], answers)
        text_columns = list(_text_fields(split.examples[0]))
        rows = [row | records[row["index"]] for row in errors]
        lines = error_lines(rows, (*self.label_type.error_columns, *text_columns))
        write_lines(folder / "errors" / f"{split.name}.tsv", lines)
        full = report.render_report(record)
        print_report(console, folder, split.name, report.render_report(record, brief=True), full)
        console.print(f"{split.name}: {len(records):,} texts scored, 0 unscored")
        return metrics


def _text_fields(example: LabelledText) -> dict[str, str]:
    return {"text": example.text} | ({} if example.pair is None else {"text_pair": example.pair})


def _make_record(example: LabelledText) -> dict[str, Any]:
    return _text_fields(example) | {"label": example.label}


def _logits(model, batch, dropout) -> jax.Array:
    return model(Inputs.from_batch(batch), batch["starts"], dropout=dropout)


def _count_words(example: LabelledText) -> int:
    return 1 + len(example.text.split()) + len((example.pair or "").split())


def _method(config: Settings) -> str:
    """Describes which part of texts longer than a window is read."""
    length = config.data.max_length
    if config.data.truncation == "windows":
        return f"texts whole, long ones by the mean of the logits of their windows of {length} tokens"
    kept = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[config.data.truncation]
    return f"the {kept} of each text that is longer than {length} tokens"
