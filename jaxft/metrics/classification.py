"""What is measured of texts that have one label each, as a mergeable state."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxft.metrics.f1 import SCORES

BINS = 15  # of the calibration error
_BLOCK = 100  # resamples drawn at a time: bounds memory at _BLOCK x labels x labels


@dataclasses.dataclass(slots=True)
class ClassificationState:
    """Gold labels and the model's probabilities: merging states gives the numbers of one state over all.

    labels: what the model can predict; gold labels may be others, which then count as wrong.
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
        """Adds examples, a row [C] of probabilities each, and the loss of a batch as sum and weight."""
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
        """Adds another state, of the same labels, to this one."""
        if self.labels != other.labels:
            raise ValueError(f"labels {self.labels} and {other.labels} cannot be merged")
        for name in ("gold", "probabilities", "loss_sums", "weight_sums"):
            getattr(self, name).extend(getattr(other, name))

    def names(self) -> list[str]:
        """The model's labels, and after them those that only gold has."""
        return self.labels + sorted(set(self.gold) - set(self.labels))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gold [N] and predicted [N] as indices into `names()`, and probabilities [N, C]."""
        index = {name: i for i, name in enumerate(self.names())}
        gold = np.array([index[name] for name in self.gold], np.int64)
        probabilities = np.concatenate(self.probabilities) if self.probabilities else np.empty((0, 1))
        return gold, probabilities.argmax(axis=1), probabilities

    def confusion(self) -> np.ndarray:
        """How often each of `names()` [gold] was predicted as each [predicted]: int64 [K, K]."""
        gold, predicted, _ = self._arrays()
        count = len(self.names())
        return np.bincount(gold * count + predicted, minlength=count * count).reshape(count, count)

    def compute(self) -> dict[str, float]:
        """All scores by flat name, in [0, 1] but for `mcc` in [-1, 1], `loss` and counts; 0 where undefined.

        `accuracy`; `precision`, `recall` and `f1`, each with `_macro`, `_micro` and `_weighted`, and with
        `/LABEL`, as scikit-learn has them: macro averages are over labels that occur in gold or prediction.
        `mcc`: Matthews' correlation coefficient. Of two labels, both in gold: `roc_auc` and
        `average_precision`, the second label being the positive one. `calibration_error`: expected, over 15
        equal bins of the predicted label's probability (Guo et al. 2017, equation 3). `support/LABEL`,
        `examples`: counts. `loss`, if any weight was given.
        """
        from sklearn import metrics  # slow to import

        gold, predicted, probabilities = self._arrays()
        names = self.names()
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

    def intervals(self, *, samples: int, confidence: float = 0.95, seed: int = 0) -> dict:
        """Percentile bootstrap intervals of `accuracy` and `f1_macro`, by drawing examples with replacement.

        Drawing N examples is drawing the counts of the confusion matrix from a multinomial.
        """
        matrix = self.confusion()
        total, count = int(matrix.sum()), len(matrix)
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn: dict[str, list[np.ndarray]] = {"accuracy": [], "f1_macro": []}
        for start in range(0, samples, _BLOCK):
            size = min(_BLOCK, samples - start)
            counts = generator.multinomial(total, matrix.ravel() / total, size).reshape(size, count, count)
            correct = np.diagonal(counts, axis1=1, axis2=2)  # [size, K]
            both = counts.sum(axis=1) + counts.sum(axis=2)  # predicted and gold
            f1 = 2 * correct / np.maximum(both, 1)
            drawn["accuracy"].append(correct.sum(axis=1) / total)
            drawn["f1_macro"].append(f1.sum(axis=1) / np.maximum((both > 0).sum(axis=1), 1))
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        found = {n: np.quantile(np.concatenate(v), tails).tolist() for n, v in drawn.items()}
        about = {"method": "percentile bootstrap over examples", "confidence": confidence}
        return about | {"samples": samples, "seed": seed} | found


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean gap of confidence [N] and accuracy (of bool [N]) over equal bins of (0, 1], weighted by their sizes."""
    if not len(confidence):
        return 0.0
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, confidence - correct, minlength=bins)  # sums over each bin
    return float(np.abs(gaps).sum() / len(confidence))
