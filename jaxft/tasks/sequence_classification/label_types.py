"""What a text's label can be, each with its targets, loss, scores and answers: one name, several, or a number."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import ArraySpec, segment_labels
from jaxft.data.sources.labelled_texts import (
    MULTI,
    NUMBER,
    SINGLE,
    LabelledText,
    collect_label_names,
    sort_labels,
)
from jaxft.errors import UserError
from jaxft.losses import cross_entropy
from jaxft.metrics.classification import ClassificationState
from jaxft.metrics.multi_label import MultiLabelState
from jaxft.metrics.regression import RegressionState
from jaxft.tasks.base import Log, class_weights

VALUE = "value"  # the label of a head that predicts a number
WORST = 100  # errors of numbers that are listed


class LabelType(Protocol):
    """What depends on the kind of label. `scores` are what is measured and answered from, float64 [N, C]."""

    arrays: Mapping[str, ArraySpec]  # of a batch
    selection_metric: str  # what "best" means where config.eval.metric is "auto"

    def encode_targets(self, examples: Sequence[LabelledText]) -> tuple[np.ndarray, np.ndarray]:
        """Labels [N] or [N, C] for the loss, and which examples have one: bool [N]."""

    def loss(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(loss_sum, weight_sum) of logits [R, S, C]."""

    def divergence(self, a: jax.Array, b: jax.Array, weights: jax.Array) -> jax.Array:
        """How far two passes' logits [R, S, C] are apart, summed by weight."""

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Scores of logits, both [N, C]."""

    def new_state(self, examples, scores: np.ndarray, tuned: Mapping[str, Any]) -> Any:
        """The metric state of examples with gold labels, without the loss."""

    def tune(self, state: Any) -> dict[str, Any]:
        """What is chosen on the dev split."""

    def answer(self, scores: np.ndarray, tuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What is said of each text, as keys of a record."""

    def evaluation_details(self, state: Any, samples: int, seed: int) -> dict[str, Any]:
        """What an evaluation says beyond its metrics, as JSON; samples: of the bootstrap."""

    def list_errors(self, gold: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each wrong answer's place, `index`, and what `error_columns` name, the worst first."""

    error_columns: tuple[str, ...]

    def check(self, name: str, examples: Sequence[LabelledText], log: Log) -> None:
        """Warns of doubtful labels."""

    def summarize(self, values: Mapping[str, float]) -> str:
        """The metrics of a log line."""


class SingleLabel:
    """One of C labels: softmax cross-entropy. Scores are probabilities."""

    selection_metric = "accuracy"
    error_columns = ("gold", "predicted", "score")

    def __init__(self, labels: list[str], config: Settings):
        self.labels = labels
        self.arrays = segment_labels(np.int32)
        self._options = _loss_options(labels, config)

    def encode_targets(self, examples):
        """int32 [N]; a label that the model lacks is none."""
        ids = {label: index for index, label in enumerate(self.labels)}
        found = np.array([ids.get(example.label, -1) for example in examples], np.int32)
        return np.maximum(found, 0), found >= 0

    def loss(self, logits, labels, weights):
        """See `losses.cross_entropy`."""
        return cross_entropy.cross_entropy(logits, labels, weights, **self._options)

    def divergence(self, a, b, weights):
        """See `losses.divergence`."""
        return cross_entropy.symmetric_divergence(a, b, weights)

    def score(self, logits):
        """Softmax."""
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def new_state(self, examples, scores, tuned):
        """A `ClassificationState`."""
        state = ClassificationState(self.labels)
        state.update([example.label for example in examples], scores)
        return state

    def tune(self, state):
        """Nothing."""
        return {}

    def answer(self, scores, tuned):
        """The most probable label and its probability."""
        for row, best in zip(scores, scores.argmax(axis=1), strict=True):
            yield {"predicted_label": self.labels[best], "score": round(float(row[best]), 6)}

    def evaluation_details(self, state, samples, seed):
        """The confusion matrix and, with samples, intervals."""
        found = {"intervals": state.intervals(samples=samples, seed=seed)} if samples else {}
        return found | {
            "confusion": {"labels": state.label_names(), "counts": state.confusion_matrix().tolist()}
        }

    def list_errors(self, gold, answers):
        """The surest first."""
        rows = [
            {"index": i, "gold": g, "predicted": a["predicted_label"], "score": a["score"]}
            for i, (g, a) in enumerate(zip(gold, answers, strict=True))
            if g != a["predicted_label"]
        ]
        return sorted(rows, key=lambda row: -row["score"])

    def check(self, name, examples, log):
        """Of labels that the model has not."""
        _warn_of_unseen(Counter(e.label for e in examples if e.label not in self.labels), name, "wrong", log)

    def summarize(self, values):
        """Accuracy, macro F1, loss."""
        return (
            f"accuracy {100 * values['accuracy']:.2f}, macro F1 {100 * values['f1_macro']:.2f}, "
            f"loss {values.get('loss', float('nan')):.4f}"
        )


class MultiLabel:
    """Any of C labels: sigmoid cross-entropy of each. Scores are probabilities, given from thresholds on."""

    selection_metric = "f1_micro"
    error_columns = ("missed", "spurious")

    def __init__(self, labels: list[str], config: Settings):
        self.labels = labels
        self.arrays = segment_labels(np.float32, (len(labels),))
        self.mode = config.eval.thresholds
        self._options = _loss_options(labels, config)

    def encode_targets(self, examples):
        """float32 [N, C], 1 for each label of an example."""
        ids = {label: index for index, label in enumerate(self.labels)}
        found = np.zeros((len(examples), len(ids)), np.float32)
        for row, example in enumerate(examples):
            found[row, [ids[label] for label in example.label or () if label in ids]] = 1
        return found, np.array([example.label is not None for example in examples], bool)

    def loss(self, logits, labels, weights):
        """See `losses.binary_cross_entropy`."""
        return cross_entropy.binary_cross_entropy(logits, labels, weights, **self._options)

    def divergence(self, a, b, weights):
        """See `losses.divergence`."""
        return cross_entropy.symmetric_divergence(a, b, weights, exclusive=False)

    def score(self, logits):
        """Sigmoid."""
        return 1 / (1 + np.exp(-logits))

    def _thresholds(self, tuned: Mapping[str, Any]) -> list[float] | None:
        found = tuned.get("thresholds")
        return None if found is None else [found[label] for label in self.labels]

    def new_state(self, examples, scores, tuned):
        """A `MultiLabelState`; without tuned thresholds it chooses its own."""
        state = MultiLabelState(self.labels, self._thresholds(tuned), self.mode)
        state.update([example.label for example in examples], scores)
        return state

    def tune(self, state):
        """{"thresholds": by label}."""
        return {"thresholds": dict(zip(self.labels, state.choose_thresholds(), strict=True))}

    def answer(self, scores, tuned):
        """The labels whose probability reaches their threshold, and these probabilities, highest first."""
        thresholds = np.array(self._thresholds(tuned) or [0.5] * len(self.labels))
        for row in scores:
            given = [i for i in np.argsort(-row, kind="stable") if row[i] >= thresholds[i]]
            names = [self.labels[i] for i in given]
            yield {
                "predicted_labels": names,
                "scores": {name: round(float(row[i]), 6) for name, i in zip(names, given, strict=True)},
            }

    def evaluation_details(self, state, samples, seed):
        """The thresholds."""
        return self.tune(state)

    def list_errors(self, gold, answers):
        """The most labels wrong first."""
        rows = []
        for index, (labels, answer) in enumerate(zip(gold, answers, strict=True)):
            given = answer["predicted_labels"]
            missed = [label for label in labels if label not in given]
            spurious = [label for label in given if label not in labels]
            if missed or spurious:
                rows.append((len(missed) + len(spurious), index, ", ".join(missed), ", ".join(spurious)))
        rows.sort(key=lambda row: -row[0])
        return [{"index": i, "missed": missed, "spurious": spurious} for _, i, missed, spurious in rows]

    def check(self, name, examples, log):
        """Of labels that the model has not."""
        unseen = Counter(label for e in examples for label in e.label if label not in self.labels)
        _warn_of_unseen(unseen, name, "missed", log)

    def summarize(self, values):
        """F1 and exact matches, loss."""
        return (
            f"micro F1 {100 * values['f1_micro']:.2f}, macro F1 {100 * values['f1_macro']:.2f}, all labels right "
            f"{100 * values['subset_accuracy']:.2f}, loss {values.get('loss', float('nan')):.4f}"
        )


class NumberLabel:
    """A number: squared error of the label, scaled from `config.data.label_range` to 0..1. Scores are unscaled."""

    selection_metric = "pearson"
    error_columns = ("gold", "predicted", "difference")

    def __init__(self, labels: list[str], config: Settings):
        for key in ("label_smoothing", "class_weights", "focal_gamma"):
            if getattr(config.loss, key):
                raise UserError(
                    f"config.loss.{key} is not for config.model.problem_type={NUMBER!r}; leave it out"
                )
        self.arrays = segment_labels(np.float32)
        low, high = config.data.label_range or (0.0, 1.0)
        self.offset, self.scale = float(low), float(high) - float(low)

    def encode_targets(self, examples):
        """float32 [N], scaled."""
        known = np.array([example.label is not None for example in examples], bool)
        values = np.array([0.0 if example.label is None else example.label for example in examples])
        return ((values - self.offset) / self.scale).astype(np.float32), known

    def loss(self, logits, labels, weights):
        """See `losses.squared_error`."""
        return cross_entropy.squared_error(logits[..., 0], labels, weights)

    def divergence(self, a, b, weights):
        """The squared difference, which is that of normal distributions of variance 1."""
        return cross_entropy.squared_error(a[..., 0], b[..., 0], weights)[0] / 2

    def score(self, logits):
        """In the data's units."""
        return logits * self.scale + self.offset

    def new_state(self, examples, scores, tuned):
        """A `RegressionState`."""
        state = RegressionState()
        state.update([example.label for example in examples], scores[:, 0])
        return state

    def tune(self, state):
        """Nothing."""
        return {}

    def answer(self, scores, tuned):
        """The number."""
        for row in scores:
            yield {"predicted_value": round(float(row[0]), 6)}

    def evaluation_details(self, state, samples, seed):
        """Nothing."""
        return {}

    def list_errors(self, gold, answers):
        """The farthest off, `WORST` of them."""
        rows = [
            {"index": i, "gold": g, "predicted": a["predicted_value"], "difference": a["predicted_value"] - g}
            for i, (g, a) in enumerate(zip(gold, answers, strict=True))
        ]
        return sorted(rows, key=lambda row: -abs(row["difference"]))[:WORST]

    def check(self, name, examples, log):
        """Of labels that are out of scale."""
        values = [example.label for example in examples]
        low, high = min(values), max(values)
        if low < self.offset - self.scale or high > self.offset + 2 * self.scale:
            log(
                f"warning: the numbers of {name} run from {low:g} to {high:g}, far from "
                f"{self.offset:g} to {self.offset + self.scale:g}, which the head starts at; "
                f"set config.data.label_range=({float(low)}, {float(high)})"
            )

    def summarize(self, values):
        """Correlations and errors."""
        return (
            f"Pearson {values['pearson']:.4f}, Spearman {values['spearman']:.4f}, mean squared error "
            f"{values['mse']:.4g}, loss {values.get('loss', float('nan')):.4f}"
        )


LABEL_TYPES = {SINGLE: SingleLabel, MULTI: MultiLabel, NUMBER: NumberLabel}  # by config.model.problem_type


def find_labels(examples: Sequence[LabelledText]) -> list[str | float]:
    """Names of labels; of numbers the least and the greatest."""
    if isinstance(examples[0].label, float):
        numbers = [example.label for example in examples]
        return [min(numbers), max(numbers)]
    return collect_label_names(examples)


def make_labels(found: Sequence[str | float]) -> list[str]:
    """Labels by name, or by number if all are whole numbers; `VALUE` where they are numbers. found: of `find_labels`.

    Raises `UserError` where there is nothing to tell apart.
    """
    if found and isinstance(found[0], float):
        if min(found) == max(found):
            raise UserError(
                f"all labels of the training data are {found[0]:g}: there is nothing to learn; is config.data.label "
                "right?"
            )
        return [VALUE]
    names = sort_labels(set(found))
    if len(names) < 2:
        raise UserError(
            f"the training data has {len(names)} label{': ' + repr(names[0]) if names else 's'}; two or more "
            "are needed to learn anything; is config.data.label right?"
        )
    return names


def _loss_options(labels: list[str], config: Settings) -> dict[str, Any]:
    weights = class_weights(config, labels)
    return {
        "label_smoothing": config.loss.label_smoothing,
        "focal_gamma": config.loss.focal_gamma,
        "class_weights": None if weights is None else jnp.asarray(weights),
    }


def _warn_of_unseen(unseen: Counter, name: str, count_as: str, log: Log) -> None:
    if unseen:
        counts = ", ".join(f"{label} {count}" for label, count in sorted(unseen.items()))
        log(f"warning: {name} has labels that train has not; they count as {count_as}: {counts}")
