"""Text classification: a label, several labels or a number for each text or pair, read from its pooled states."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import (
    NUMBER,
    LabelledText,
    TextColumns,
    find_text_overlap,
    read_labelled_texts,
    split_dev_labelled_texts,
)
from jaxft.errors import UserError
from jaxft.io import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads import Score, SequenceClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.models.registry import is_causal, make_backbone
from jaxft.tasks.base import Log, Split, cache_folder, count_anywhere, group_by_words, loss_with_r_drop
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.sequence_classification import label_types, report
from jaxft.tasks.sequence_classification.label_types import LABEL_TYPES, VALUE, LabelType

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 12  # labels that the log counts
AUTO_POOL = {
    "bert": "pooler",
    "gpt2": "last",
}  # of what `config.model.pool` means, by architecture; transformers'


def pool_of(config: Settings, model_type: str) -> str:
    """What the head reads of an architecture: `config.model.pool`, or what "auto" means."""
    return AUTO_POOL[model_type] if config.model.pool == "auto" else config.model.pool


def has_transformers_class(config: Settings, model_type: str) -> bool:
    """Whether transformers' class for sequence classification computes what a model of `config` does with a window.

    It pools in one way, and a GPT-2's has no bias, which numbers in the data's units need.
    """
    numbers = model_type == "gpt2" and config.model.problem_type == NUMBER
    return pool_of(config, model_type) == AUTO_POOL[model_type] and not numbers


class SequenceClassification:
    """Labels of whole texts, by `config.model.problem_type`; see `problems`.

    Predictions are scores, float64 [N, C]. A document in several windows has the mean of their logits.
    """

    architectures = ("bert", "gpt2")
    reads_words = False
    predicts_tokens = False
    compares_with_train = False

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        self.labels = labels
        self.tuned: dict[str, Any] = {}
        self.head_dropout = head_dropout
        self.config = config
        self.label_type: LabelType = LABEL_TYPES[config.model.problem_type](labels, config)
        self.arrays = self.label_type.arrays
        self.selection_metric = self.label_type.selection_metric
        self.max_segments = config.data.max_segments or max(1, config.data.max_length // 8)
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1
        self.method = _method(config)

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[LabelledText]:
        """All examples of `source`; says how many there are, of which labels, and which are empty."""
        data = config.data
        columns = TextColumns(data.text, data.text_pair, data.label)
        examples = list(
            read_labelled_texts(
                source,
                columns=columns,
                problem=config.model.problem_type,
                separator=data.label_separator,
                format=data.format,
            )
        )
        log(
            f"{name}: {source}: {len(examples):,} {'pairs' if data.text_pair else 'texts'}; {_labels(examples)}"
        )
        empty = [e for e in examples if not e.text.strip() and not (e.pair or "").strip()]
        if len(empty) == len(examples):
            raise UserError(
                f"{name}: {source}: all {len(empty):,} texts are empty; is config.data.text={data.text!r} right?"
            )
        if empty:
            log(
                f"warning: {name}: {len(empty):,} of {len(examples):,} texts are empty, and stay in; the first: "
                f"{empty[0].origin}"
            )
        return examples

    @staticmethod
    def split_dev(
        examples: Sequence[LabelledText], fraction: float, seed: int
    ) -> tuple[list[LabelledText], list[LabelledText]]:
        """(train, dev) of examples; single labels keep their shares."""
        return split_dev_labelled_texts(examples, fraction, seed)

    @staticmethod
    def find_labels(examples: Sequence[LabelledText]) -> list[str | float]:
        """See `problems.find_labels`."""
        return label_types.find_labels(examples)

    @staticmethod
    def make_labels(found: Sequence[str | float]) -> list[str]:
        """See `problems.label_set`."""
        return label_types.make_labels(found)

    @staticmethod
    def iterate_texts(train: Sequence[LabelledText]) -> Iterator[str]:
        """Texts and their pairs."""
        return (text for e in train for text in (e.text, e.pair) if text is not None)

    def check(self, split: Split, train: Sequence[LabelledText], log: Log) -> None:
        """Warns of labels that the model cannot predict, texts that stand in `train` as well, and shortened ones."""
        name, examples = split.name, split.examples
        self.label_type.check(name, examples, log)
        whole = examples is train and self.config.data.shards == 1  # of a part's texts this says nothing
        if whole and len(self.labels) > max(len(examples) // 2, 2):
            log(
                f"warning: {len(self.labels):,} labels for {len(examples):,} texts; is config.data.label right?"
            )
        if examples is not train and (shared := count_anywhere(find_text_overlap(train, examples))):
            log(f"warning: {shared:,} of {len(examples):,} texts of {name} stand word for word in train")
        lost = split.windows.column("lost")
        if count := len(np.unique(split.windows.sentence[lost > 0])):
            windows = self.config.data.truncation == "windows"
            hint = "windows read the longer text of a pair" if windows else "='windows' reads all"
            log(
                f"{name}: {count:,} of {len(examples):,} texts are shortened, by {lost.max():,} tokens at most, to "
                f"fit config.data.max_length (config.data.truncation{': ' * windows}{hint})"
            )
        if (extra := len(split.windows) - len(examples)) > 0:
            log(f"{name}: long texts have {extra:,} more windows, each with its text's label")

    def encode(
        self,
        examples: Sequence[LabelledText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """`Windows` of examples (`only` some, if given) under the settings; see data/labelled_windows.py."""
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
        """One position, unless all are pooled."""
        return None if self.config.model.pool in ("mean", "max") else np.ones(len(windows), np.int64)

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """`SequenceClassifier` over a backbone of `sizes`. Raises `UserError` where it has nothing to pool so."""
        causal = is_causal(sizes)
        pool = pool_of(self.config, sizes.get("architecture", "bert"))
        if causal and pool in ("pooler", "cls"):
            raise UserError(
                f"config.model.pool={pool!r}: the first token of a GPT-2 sees only itself, and there is no pooler; "
                "expected 'last' (which 'auto' means), 'mean' or 'max'"
            )
        return SequenceClassifier(
            make_backbone(sizes, rngs=rngs, **({"pooler": True} if pool == "pooler" else {})),
            num_labels=len(self.labels),
            pool=pool,
            dropout=self.head_dropout,
            initializer_range=sizes["initializer_range"],
            rngs=rngs,
            head=Score if causal else Linear,
        )

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """The problem's loss summed over windows by their weights; weight: their sum. R-Drop: see `loss_with_r_drop`."""
        labels, weights = batch["labels"], batch["weights"]
        return loss_with_r_drop(
            lambda masks: _logits(model, batch, masks),
            lambda logits: self.label_type.loss(logits, labels, weights),
            lambda one, other: self.label_type.divergence(one, other, weights),
            self.r_drop,
            dropout,
        )

    def logits(self, model, batch) -> jax.Array:
        """Outputs for every segment, float32 [R, S, C], numbers in the data's units, without dropout."""
        logits = _logits(model, batch, None)
        return self.label_type.score(logits) if self.labels == [VALUE] else logits

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Parameters whose head gives numbers in the data's units."""
        if self.labels != [VALUE]:
            return parameters
        offset, scale = self.label_type.offset, self.label_type.scale
        [kernel] = parameters.keys() & {"head/kernel", "head/score/kernel"}  # a GPT-2's has no bias beside
        bias = parameters.get("head/bias", np.zeros(1, np.float32)) * scale + offset
        return parameters | {kernel: parameters[kernel] * scale, "head/bias": bias}

    def predict(self, model, batch):
        """{"logits": float32 [R, S, C]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits}, *self.label_type.loss(logits, batch["labels"], batch["weights"])

    def encode_prompts(self, examples, tokenizer, config) -> list[list[int]]:
        """None: labels are no text."""
        return []

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> np.ndarray:
        """Scores of each example, float64 [N, C]."""
        sums = np.zeros((len(split.examples), len(self.labels)))
        counts = np.zeros(len(split.examples), np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            owner = split.windows.sentence[batch.windows[row, segment]]
            np.add.at(sums, owner, arrays["logits"][row, segment])
            np.add.at(counts, owner, 1)
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
        """Predicts examples as they come: yields them with what is said of them, in order, a chunk at a time.

        outputs: the model's, of all windows. max_words: of a chunk (or one example): all that is held in memory.
        """
        for chunk in group_by_words(examples, _words, max_words):
            windows = self.encode(chunk, tokenizer, config, cached=False)
            scores = self.collect(Split("input", "input", chunk, windows), outputs(windows))
            yield list(zip(chunk, self.label_type.answer(scores, self.tuned), strict=True))

    def tune(self, split: Split, scores: np.ndarray) -> None:
        """Thresholds, where a text may have several labels."""
        self.tuned = self.label_type.tune(self.label_type.new_state(split.examples, scores, {}))

    def measure(self, split: Split, scores: np.ndarray, loss_sum: float, weight_sum: float) -> Any:
        """The metric state of a split; see `Problem.state`."""
        state = self.label_type.new_state(split.examples, scores, self.tuned)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
        scores = np.zeros((len(split.examples), len(self.labels)))
        return list(self.measure(split, scores, 0.0, 1.0).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""
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
        """Writes eval/NAME.json, predictions/NAME.jsonl and errors/NAME.tsv, prints the report, returns the metrics.

        samples: of the bootstrap, for single labels.
        """
        metrics = state.compute()
        details = self.label_type.evaluation_details(state, samples, seed)
        result = report.evaluation_record(metrics, data=split.source, method=self.method, details=details)
        write_json(folder / "eval" / f"{split.name}.json", result)
        answers = list(self.label_type.answer(scores, self.label_type.tune(state)))
        records = [_record(e) | a for e, a in zip(split.examples, answers, strict=True)]
        write_lines(folder / "predictions" / f"{split.name}.jsonl", prediction_lines(records))
        errors = self.label_type.list_errors([example.label for example in split.examples], answers)
        texts = list(_record(split.examples[0]))[:-1]
        rows = [row | records[row["index"]] for row in errors]
        lines = error_lines(rows, (*self.label_type.error_columns, *texts))
        write_lines(folder / "errors" / f"{split.name}.tsv", lines)
        console.print(report.render_report(result))
        console.print(f"{split.name}: {len(records):,} texts scored, 0 unscored")
        return metrics


def _record(example: LabelledText) -> dict[str, Any]:
    texts = (
        {"text": example.text} if example.pair is None else {"text": example.text, "text_pair": example.pair}
    )
    return texts | {"label": example.label}


def _logits(model, batch, dropout) -> jax.Array:
    return model(Inputs.from_batch(batch), batch["starts"], dropout=dropout)


def _words(example: LabelledText) -> int:
    return 1 + len(example.text.split()) + len((example.pair or "").split())


def _labels(examples: Sequence[LabelledText]) -> str:
    """What is said of the labels of a data set."""
    if isinstance(examples[0].label, float):
        values = [example.label for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.4g}"
    counts = Counter(name for e in examples for name in ([e.label] if isinstance(e.label, str) else e.label))
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(SHOWN))
    return f"{len(counts)} labels: {shown}{', ...' if len(counts) > SHOWN else ''}"


def _method(config: Settings) -> str:
    """What is read of a text that is too long."""
    length = config.data.max_length
    if config.data.truncation == "windows":
        return f"texts whole, long ones by the mean of the logits of their windows of {length} tokens"
    part = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[config.data.truncation]
    return f"the {part} of each text that is longer than {length} tokens"
