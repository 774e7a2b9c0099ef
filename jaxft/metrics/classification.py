"""Measures predictions for texts with one label each, as a mergeable state."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.metrics.f1 import SCORES

CALIBRATION_BINS = 15
_BLOCK = 100  # resamples drawn at a time; bounds memory at _BLOCK x labels x labels


@dataclasses.dataclass(slots=True)
class ClassificationState:
    """Gold labels and probabilities. Merged states give the same numbers as a single state for all texts.

    Args:
      labels: the labels that the model can predict. An example with any other gold label counts as wrong.
    """

    labels: list[str]
    gold: list[str] = dataclasses.field(default_factory=list)
    probabilities: list[np.ndarray] = dataclasses.field(default_factory=list)  # float [n, C] each
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[str],
        probabilities: np.ndarray,
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
    ) -> None:
        """Adds examples with their probabilities `[n, C]`, and the loss of a batch as sum and weight."""
        if np.shape(probabilities) != (len(gold), len(self.labels)):
            raise ValueError(
                f"{len(gold)} examples of {len(self.labels)} labels, but probabilities "
                f"{np.shape(probabilities)}"
            )
        self.gold += gold
        self.probabilities.append(np.asarray(probabilities, np.float64))
        self.loss_sums.append(float(loss_sum))
        self.weight_sums.append(float(weight_sum))

    def merge(self, other: "ClassificationState") -> None:
        """Adds another state with the same labels to this one."""
        if self.labels != other.labels:
            raise ValueError(f"labels {self.labels} and {other.labels} cannot be merged")
        for name in ("gold", "probabilities", "loss_sums", "weight_sums"):
            getattr(self, name).extend(getattr(other, name))

    def label_names(self) -> list[str]:
        """Returns the K labels: the model's, followed by labels that occur only in gold."""
        return self.labels + sorted(set(self.gold) - set(self.labels))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns gold `[N]` and predicted `[N]` as indices into `label_names()`, and probabilities `[N, C]`."""
        index = {name: i for i, name in enumerate(self.label_names())}
        gold = np.array([index[name] for name in self.gold], np.int64)
        probabilities = np.concatenate(self.probabilities) if self.probabilities else np.empty((0, 1))
        return gold, probabilities.argmax(axis=1), probabilities

    def confusion_matrix(self) -> np.ndarray:
        """Counts the examples of each pair (gold label, predicted label): int64 `[K, K]`."""
        gold, predicted, _ = self._arrays()
        count = len(self.label_names())
        return np.bincount(gold * count + predicted, minlength=count * count).reshape(count, count)

    def compute(self) -> dict[str, float]:
        """Returns all scores by flat name.

        Scores are in [0, 1], except `mcc` in [-1, 1], `loss` and counts. Undefined scores are 0.

        - `accuracy`.
        - `precision`, `recall` and `f1`, each with `_macro`, `_micro` and `_weighted`, and with `/LABEL`, as in
          scikit-learn. Macro averages are over labels that occur in gold or in predictions.
        - `mcc`: Matthews' correlation coefficient.
        - `roc_auc` and `average_precision`, if there are two labels and both occur in gold. The second label is the
          positive one.
        - `calibration_error`: the expected calibration error over 15 equal bins of the predicted label's probability
          (Guo et al. 2017, equation 3).
        - `support/LABEL`, `examples`: counts.
        - `loss`, if any weight was added.
        """
        from sklearn import metrics  # slow to import

        gold, predicted, probabilities = self._arrays()
        names = self.label_names()
        values: dict[str, float] = {}
        if weight := math.fsum(self.weight_sums):
            values["loss"] = math.fsum(self.loss_sums) / weight
        values["accuracy"] = float(metrics.accuracy_score(gold, predicted))
        present = np.unique(np.concatenate([gold, predicted]))
        for average in ("macro", "micro", "weighted"):
            *scores, _ = metrics.precision_recall_fscore_support(
                gold, predicted, labels=present, average=average, zero_division=0
            )
            values |= {f"{name}_{average}": float(v) for name, v in zip(SCORES, scores, strict=True)}
        values["mcc"] = float(metrics.matthews_corrcoef(gold, predicted)) if len(present) > 1 else 0.0
        if len(names) == 2 and len(set(self.gold)) == 2:
            values["roc_auc"] = float(metrics.roc_auc_score(gold, probabilities[:, 1]))
            values["average_precision"] = float(metrics.average_precision_score(gold, probabilities[:, 1]))
        values["calibration_error"] = calibration_error(probabilities.max(axis=1), gold == predicted)
        values["examples"] = float(len(gold))
        columns = metrics.precision_recall_fscore_support(
            gold, predicted, labels=range(len(names)), average=None, zero_division=0
        )
        for name, column in zip((*SCORES, "support"), columns, strict=True):
            values |= {f"{name}/{label}": float(v) for label, v in zip(names, column, strict=True)}
        return values

    def intervals(self, *, samples: int, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Returns percentile bootstrap intervals of `accuracy` and `f1_macro`, drawing examples with replacement.

        Drawing N examples is the same as drawing the counts of the confusion matrix from a multinomial.
        """
        matrix = self.confusion_matrix()
        total, count = int(matrix.sum()), len(matrix)
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn: dict[str, list[np.ndarray]] = {"accuracy": [], "f1_macro": []}
        for start in range(0, samples, _BLOCK):
            size = min(_BLOCK, samples - start)
            counts = generator.multinomial(total, matrix.ravel() / total, size).reshape(size, count, count)
            correct = np.diagonal(counts, axis1=1, axis2=2)  # [size, K]
            support = counts.sum(axis=1) + counts.sum(axis=2)  # predicted plus gold, [size, K]
            f1 = 2 * correct / np.maximum(support, 1)
            drawn["accuracy"].append(correct.sum(axis=1) / total)
            drawn["f1_macro"].append(f1.sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        bounds = {n: np.quantile(np.concatenate(v), tails).tolist() for n, v in drawn.items()}
        method = {"method": "percentile bootstrap over examples", "confidence": confidence}
        return method | {"samples": samples, "seed": seed} | bounds


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Returns the mean gap between confidence and accuracy over equal bins of (0, 1], weighted by bin size.

    Args:
      confidence: float `[N]`, the probability of each predicted label.
      correct: bool `[N]`, True for correct predictions.
      bins: number of bins.
    """
    if not len(confidence):
        return 0.0
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap_sums = np.bincount(index, confidence - correct, minlength=bins)
    return float(np.abs(gap_sums).sum() / len(confidence))
