"""Measures predictions for texts with any number of labels, and chooses thresholds, as a mergeable state."""

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np

from jaxft.metrics.f1 import SCORES

DEFAULT_THRESHOLD = 0.5  # the threshold of a label without examples


@dataclasses.dataclass(slots=True)
class MultiLabelState:
    """Gold labels and probabilities. Merged states give the same numbers as a single state for all texts.

    Args:
      labels: the labels that the model can predict. Other gold labels count as missed.
      thresholds: `[C]`, the smallest probability at which each label is predicted; None to choose them on the examples
        of this state.
      mode: the way in which `choose_thresholds` chooses.
    """

    labels: list[str]
    thresholds: list[float] | None = None
    mode: str = "one"
    gold: list[frozenset[str]] = dataclasses.field(default_factory=list)
    probabilities: list[np.ndarray] = dataclasses.field(default_factory=list)  # float [n, C] each
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[Collection[str]],
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
        self.gold += map(frozenset, gold)
        self.probabilities.append(np.asarray(probabilities, np.float64))
        self.loss_sums.append(float(loss_sum))
        self.weight_sums.append(float(weight_sum))

    def merge(self, other: "MultiLabelState") -> None:
        """Adds another state with the same labels and thresholds to this one."""
        for name in ("labels", "thresholds", "mode"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"states of other {name} cannot be merged")
        for name in ("gold", "probabilities", "loss_sums", "weight_sums"):
            getattr(self, name).extend(getattr(other, name))

    def _arrays(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Returns K label names, with gold-only labels last; gold, bool `[N, K]`; probabilities, `[N, K]`."""
        names = self.labels + sorted(frozenset().union(*self.gold) - set(self.labels))
        index = {name: i for i, name in enumerate(names)}
        gold = np.zeros((len(self.gold), len(names)), bool)
        for row, gold_labels in enumerate(self.gold):
            gold[row, [index[name] for name in gold_labels]] = True
        probabilities = np.zeros(gold.shape)
        if self.probabilities:
            probabilities[:, : len(self.labels)] = np.concatenate(self.probabilities)
        return names, gold, probabilities

    def choose_thresholds(self) -> list[float]:
        """Returns the thresholds `[C]`, chosen on these examples unless they were set.

        Mode "one" chooses a single threshold for all labels, with the best micro F1. Mode "label" chooses a threshold
        for each label, with the best F1 of the label. Mode "none" always returns 0.5.
        """
        if self.thresholds is not None:
            return list(self.thresholds)
        count = len(self.labels)
        _, gold, probabilities = self._arrays()
        gold, probabilities = gold[:, :count], probabilities[:, :count]
        if self.mode == "none":
            return [DEFAULT_THRESHOLD] * count
        if self.mode == "one":
            return [best_threshold(gold.ravel(), probabilities.ravel())] * count
        return [best_threshold(gold[:, i], probabilities[:, i]) for i in range(count)]

    def compute(self) -> dict[str, float]:
        """Returns all scores by flat name, in [0, 1] except `loss` and counts. Undefined scores are 0.

        - `precision`, `recall` and `f1`, each with `_micro`, `_macro` and `_weighted` (over all labels of the model
          and of gold), and with `/LABEL`, as in scikit-learn.
        - `subset_accuracy`: the share of examples whose labels are all correct.
        - `label_accuracy`: the share of correct decisions about an example and a label.
        - `average_precision_micro` and `_macro` (over labels that occur in gold), which do not depend on thresholds.
        - `threshold/LABEL`, `support/LABEL`, `examples`.
        - `loss`, if any weight was added.
        """
        from sklearn import metrics  # slow to import

        names, gold, probabilities = self._arrays()
        thresholds = np.array(self.choose_thresholds() + [math.inf] * (len(names) - len(self.labels)))
        predicted = probabilities >= thresholds
        values: dict[str, float] = {}
        if weight := math.fsum(self.weight_sums):
            values["loss"] = math.fsum(self.loss_sums) / weight
        for average in ("micro", "macro", "weighted"):
            *scores, _ = metrics.precision_recall_fscore_support(
                gold, predicted, average=average, zero_division=0
            )
            values |= {f"{name}_{average}": float(v) for name, v in zip(SCORES, scores, strict=True)}
        values["subset_accuracy"] = float(metrics.accuracy_score(gold, predicted))
        values["label_accuracy"] = float((gold == predicted).mean())
        values |= {"average_precision_micro": 0.0, "average_precision_macro": 0.0}
        if (in_gold := gold.any(axis=0)).any():
            for average in ("micro", "macro"):
                score = metrics.average_precision_score(
                    gold[:, in_gold], probabilities[:, in_gold], average=average
                )
                values[f"average_precision_{average}"] = float(score)
        values["examples"] = float(len(gold))
        columns = metrics.precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
        for name, column in zip((*SCORES, "support"), columns, strict=True):
            values |= {f"{name}/{label}": float(v) for label, v in zip(names, column, strict=True)}
        label_thresholds = zip(self.labels, thresholds[: len(self.labels)], strict=True)
        return values | {f"threshold/{label}": float(value) for label, value in label_thresholds}


def best_threshold(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the threshold with the best F1 of `probabilities >= threshold` against `gold`.

    The threshold lies midway to the next smaller probability, so that rounding errors do not matter. It is 0.5 if
    all of gold is False.

    Args:
      gold: bool `[N]`, True for examples with the label.
      probabilities: float `[N]`, the probabilities of the label.
    """
    from sklearn.metrics import precision_recall_curve

    if not gold.any():
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(gold, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    below = probabilities[probabilities < thresholds[best]]
    return float((thresholds[best] + (below.max() if len(below) else 0.0)) / 2)
