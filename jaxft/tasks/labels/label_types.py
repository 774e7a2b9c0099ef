"""Defines the types of label that an example can have: one name, several names, or a number."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.encoding.encoded import ArraySpec
from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE, Labelled
from jaxft.errors import UserError, list_names
from jaxft.losses import cross_entropy
from jaxft.metrics.classification import ClassificationState
from jaxft.metrics.multi_label import MultiLabelState
from jaxft.tasks.base import Log
from jaxft.tasks.label_losses import read_class_weights
from jaxft.tasks.labels.number_label import NumberLabel
from jaxft.tasks.labels.settings import LabelSettings


class LabelType(Protocol):
    """A type of label, with its targets, loss, metrics and answers.

    Metrics and answers are computed from scores, float64 [N, C].

    Attributes:
      target: the dtype and shape of an example's label in a batch.
      selection_metric: the metric that chooses the best weights if config.eval.metric is "auto".
      error_columns: the columns of the error list before those of the example.
    """

    target: ArraySpec
    selection_metric: str
    error_columns: tuple[str, ...]

    def encode_targets(self, examples: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels for the loss, [N] or [N, C], and bool [N], True for examples with a label."""

    def loss(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (loss_sum, weight_sum) of logits [R, S, C], or [R, C] if a row holds one example."""

    def divergence(self, first: jax.Array, second: jax.Array, weights: jax.Array) -> jax.Array:
        """Returns the divergence between the logits of two passes, summed by weight."""

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Returns the scores of logits, both [N, C]."""

    def make_state(self, examples: Sequence[Labelled], scores: np.ndarray, tuned: Mapping[str, Any]) -> Any:
        """Returns the metric state of examples with gold labels, without the loss."""

    def tune(self, state: Any) -> dict[str, Any]:
        """Returns the values that are chosen on the dev split."""

    def answer(self, scores: np.ndarray, tuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the answer for each example, as keys and values of a record."""

    def evaluation_details(self, state: Any, samples: int, seed: int) -> dict[str, Any]:
        """Returns the details that an evaluation records besides its metrics, as JSON values.

        Args:
          state: the metric state.
          samples: number of resamples of the bootstrap; 0 for no intervals.
          seed: the seed of the bootstrap.
        """

    def list_errors(self, gold: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns a row for each wrong answer, worst first, with its `index` and the `error_columns`."""

    def check(self, name: str, examples: Sequence[Labelled], log: Log) -> None:
        """Warns about doubtful labels."""

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""


class SingleLabel:
    """Exactly one of C labels, with softmax cross-entropy. Scores are probabilities."""

    target = ArraySpec(np.int32)
    selection_metric = "accuracy"
    error_columns: tuple[str, ...] = ("gold", "predicted", "score")

    def __init__(self, labels: Sequence[str], config: LabelSettings):
        self.labels = list(labels)
        self._options = _loss_options(labels, config)

    def encode_targets(self, examples: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Returns label ids, int32 [N]. An example whose label the model lacks counts as an example without a label."""
        ids = {label: index for index, label in enumerate(self.labels)}
        label_ids = np.array([ids.get(example.label, -1) for example in examples], np.int32)
        return np.maximum(label_ids, 0), label_ids >= 0

    def loss(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns `cross_entropy.cross_entropy`."""
        return cross_entropy.cross_entropy(logits, labels, weights, **self._options)

    def divergence(self, first: jax.Array, second: jax.Array, weights: jax.Array) -> jax.Array:
        """Returns `cross_entropy.symmetric_divergence`."""
        return cross_entropy.symmetric_divergence(first, second, weights)

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Returns the softmax of logits."""
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def make_state(
        self, examples: Sequence[Labelled], scores: np.ndarray, tuned: Mapping[str, Any]
    ) -> ClassificationState:
        """Returns a `ClassificationState`."""
        state = ClassificationState(self.labels)
        state.update([example.label for example in examples], scores)
        return state

    def tune(self, state: ClassificationState) -> dict[str, Any]:
        """Returns nothing, because there is nothing to tune."""
        return {}

    def answer(self, scores: np.ndarray, tuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the most probable label and its probability."""
        for row, best in zip(scores, scores.argmax(axis=1), strict=True):
            yield {"predicted_label": self.labels[best], "score": round(float(row[best]), 6)}

    def evaluation_details(self, state: ClassificationState, samples: int, seed: int) -> dict[str, Any]:
        """Returns the confusion matrix and, if there are samples, intervals."""
        intervals = {"intervals": state.intervals(samples=samples, seed=seed)} if samples else {}
        confusion = {"labels": state.label_names(), "counts": state.confusion_matrix().tolist()}
        return intervals | {"confusion": confusion}

    def list_errors(self, gold: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the wrong answers, most confident first."""
        rows = [
            {"index": index, "gold": label, "predicted": answer["predicted_label"], "score": answer["score"]}
            for index, (label, answer) in enumerate(zip(gold, answers, strict=True))
            if label != answer["predicted_label"]
        ]
        return sorted(rows, key=lambda row: -row["score"])

    def check(self, name: str, examples: Sequence[Labelled], log: Log) -> None:
        """Warns about labels that the model does not have."""
        _check_known([e.label for e in examples], self.labels, name, "wrong", log)

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns accuracy, macro F1 and loss as a line of the log."""
        return (
            f"accuracy {100 * values['accuracy']:.2f}, macro F1 {100 * values['f1_macro']:.2f}, "
            f"loss {values.get('loss', float('nan')):.4f}"
        )


class MultiLabel:
    """Any number of C labels, with sigmoid cross-entropy for each.

    Scores are probabilities. An example gets each label whose probability reaches the label's threshold.
    """

    selection_metric = "f1_micro"
    error_columns: tuple[str, ...] = ("missed", "spurious")

    def __init__(self, labels: Sequence[str], config: LabelSettings):
        self.labels = list(labels)
        self.target = ArraySpec(np.float32, shape=(len(labels),))
        self.threshold_mode = config.eval.thresholds
        self._options = _loss_options(labels, config)

    def encode_targets(self, examples: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 [N, C], 1 for each label of an example."""
        ids = {label: index for index, label in enumerate(self.labels)}
        targets = np.zeros((len(examples), len(ids)), np.float32)
        for row, example in enumerate(examples):
            targets[row, [ids[label] for label in example.label or () if label in ids]] = 1
        return targets, np.array([example.label is not None for example in examples], bool)

    def loss(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns `cross_entropy.binary_cross_entropy`."""
        return cross_entropy.binary_cross_entropy(logits, labels, weights, **self._options)

    def divergence(self, first: jax.Array, second: jax.Array, weights: jax.Array) -> jax.Array:
        """Returns `cross_entropy.symmetric_divergence`."""
        return cross_entropy.symmetric_divergence(first, second, weights, exclusive=False)

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Returns the sigmoid of logits."""
        return 1 / (1 + np.exp(-logits))

    def _thresholds(self, tuned: Mapping[str, Any]) -> list[float] | None:
        """Returns the tuned thresholds in the order of labels, or None before they are tuned."""
        by_label = tuned.get("thresholds")
        return None if by_label is None else [by_label[label] for label in self.labels]

    def make_state(
        self, examples: Sequence[Labelled], scores: np.ndarray, tuned: Mapping[str, Any]
    ) -> MultiLabelState:
        """Returns a `MultiLabelState`, which chooses thresholds on its examples if none are tuned."""
        state = MultiLabelState(self.labels, self._thresholds(tuned), self.threshold_mode)
        state.update([example.label for example in examples], scores)
        return state

    def tune(self, state: MultiLabelState) -> dict[str, Any]:
        """Returns {"thresholds": {label: threshold}}."""
        return {"thresholds": dict(zip(self.labels, state.choose_thresholds(), strict=True))}

    def answer(self, scores: np.ndarray, tuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the labels whose probability reaches their threshold, with these probabilities, highest first."""
        thresholds = np.array(self._thresholds(tuned) or [0.5] * len(self.labels))
        for row in scores:
            ids = [i for i in np.argsort(-row, kind="stable") if row[i] >= thresholds[i]]
            names = [self.labels[i] for i in ids]
            yield {
                "predicted_labels": names,
                "scores": {name: round(float(row[i]), 6) for name, i in zip(names, ids, strict=True)},
            }

    def evaluation_details(self, state: MultiLabelState, samples: int, seed: int) -> dict[str, Any]:
        """Returns the thresholds."""
        return self.tune(state)

    def list_errors(self, gold: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the examples with missed or spurious labels, sorted by decreasing number of such labels."""
        rows = []
        for index, (labels, answer) in enumerate(zip(gold, answers, strict=True)):
            predicted = answer["predicted_labels"]
            missed = [label for label in labels if label not in predicted]
            spurious = [label for label in predicted if label not in labels]
            if missed or spurious:
                rows.append((len(missed) + len(spurious), index, ", ".join(missed), ", ".join(spurious)))
        rows.sort(key=lambda row: -row[0])
        return [
            {"index": index, "missed": missed, "spurious": spurious} for _, index, missed, spurious in rows
        ]

    def check(self, name: str, examples: Sequence[Labelled], log: Log) -> None:
        """Warns about labels that the model does not have."""
        _check_known([label for e in examples for label in e.label], self.labels, name, "missed", log)

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns F1, exact matches and loss as a line of the log."""
        return (
            f"micro F1 {100 * values['f1_micro']:.2f}, macro F1 {100 * values['f1_macro']:.2f}, all labels right "
            f"{100 * values['subset_accuracy']:.2f}, loss {values.get('loss', float('nan')):.4f}"
        )


# By config.model.problem_type.
LABEL_TYPES: dict[str, Callable[[Sequence[str], LabelSettings], LabelType]] = {
    SINGLE: SingleLabel,
    MULTI: MultiLabel,
    NUMBER: NumberLabel,
}


def make_label_type(labels: Sequence[str], config: LabelSettings) -> LabelType:
    """Returns the type of a run's labels. Raises `UserError` if the loss's settings do not fit the labels."""
    return LABEL_TYPES[config.model.problem_type](labels, config)


def _loss_options(labels: Sequence[str], config: LabelSettings) -> dict[str, Any]:
    weights = read_class_weights(config.loss, labels)
    return {
        "label_smoothing": config.loss.label_smoothing,
        "focal_gamma": config.loss.focal_gamma,
        "class_weights": None if weights is None else jnp.asarray(weights),
    }


def _check_known(names: Sequence[str], labels: Sequence[str], split: str, count_as: str, log: Log) -> None:
    """Warns about names that are none of the model's labels. Raises `UserError` if no name is a label of the model."""
    known = set(labels)
    unseen = Counter(name for name in names if name not in known)
    if not unseen:
        return
    if unseen.total() == len(names):
        raise UserError(
            f"{split}: none of its labels ({list_names(sorted(unseen))}) is a label of the model "
            f"({list_names(labels)}), so that nothing can be scored; is config.data.label right?"
        )
    counts = ", ".join(f"{label} {count}" for label, count in sorted(unseen.items()))
    log(f"warning: {split} has labels that train has not; they count as {count_as}: {counts}")
