"""Word-level accuracy and per-class precision, recall and F1 of a tagger, as a mergeable state."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxft.metrics.f1 import SCORES, divide, precision_recall_f1


@dataclasses.dataclass(slots=True)
class TokenState:
    """Counts of (gold tag, predicted tag), one for each word: the confusion matrix, sparse."""

    confusion: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Adds one sentence; `ValueError` if it has not one predicted tag for each gold tag."""
        self.confusion.update(zip(gold, predicted, strict=True))

    def merge(self, other: "TokenState") -> None:
        """Adds the counts of another state to this one."""
        self.confusion.update(other.confusion)

    def compute(self) -> dict[str, float]:
        """`token_accuracy`, `token_support` (words) and `token_{precision,recall,f1,support}/TAG` for every
        tag that occurs in gold or prediction, `O` included; scores in [0, 1], 0 where undefined."""
        tags = sorted({tag for pair in self.confusion for tag in pair})
        index = {tag: i for i, tag in enumerate(tags)}
        matrix = np.zeros((len(tags), len(tags)), np.int64)  # [gold, predicted]
        for (gold, predicted), count in self.confusion.items():
            matrix[index[gold], index[predicted]] = count
        correct, support = matrix.diagonal(), matrix.sum(axis=1)
        scores = precision_recall_f1(correct, matrix.sum(axis=0), support)

        metrics = {
            "token_accuracy": float(divide(correct.sum(), matrix.sum())),
            "token_support": float(matrix.sum()),
        }
        for i, tag in enumerate(tags):
            metrics |= {
                f"token_{name}/{tag}": float(values[i]) for name, values in zip(SCORES, scores, strict=True)
            }
            metrics[f"token_support/{tag}"] = float(support[i])
        return metrics
