"""Measures word-level accuracy and per-class precision, recall and F1 of a tagger, as mergeable states."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.metrics import bootstrap
from jaxft.metrics.f1 import SCORES, divide, precision_recall_f1


@dataclasses.dataclass(slots=True)
class TokenState:
    """A sparse confusion matrix: the number of words with each pair (gold tag, predicted tag)."""

    confusion: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Adds a sentence. Raises `ValueError` if the numbers of gold and predicted tags differ."""
        self.confusion.update(zip(gold, predicted, strict=True))

    def merge(self, other: "TokenState") -> None:
        """Adds the counts of another state to this one."""
        self.confusion.update(other.confusion)

    def confusion_matrix(self) -> tuple[list[str], np.ndarray]:
        """Returns the K tags in gold or predictions, sorted, and the words of each pair (gold, predicted), `[K, K]`."""
        tags = sorted({tag for pair in self.confusion for tag in pair})
        index = {tag: i for i, tag in enumerate(tags)}
        matrix = np.zeros((len(tags), len(tags)), np.int64)
        for (gold, predicted), count in self.confusion.items():
            matrix[index[gold], index[predicted]] = count
        return tags, matrix

    def compute(self) -> dict[str, float]:
        """Returns the scores by flat name, in [0, 1].

        Undefined scores are 0, as in scikit-learn with `zero_division=0`. The names are `token_accuracy`,
        `token_support` (words), `token_{precision,recall,f1}` with `_macro` and `_weighted` (by gold support), and
        `token_{precision,recall,f1,support}/TAG` for each tag in gold or predictions, `O` included.
        """
        tags, matrix = self.confusion_matrix()
        correct, support = matrix.diagonal(), matrix.sum(axis=1)
        scores = precision_recall_f1(correct, matrix.sum(axis=0), support)

        metrics = {
            "token_accuracy": float(divide(correct.sum(), matrix.sum())),
            "token_support": float(matrix.sum()),
        }
        for name, values in zip(SCORES, scores, strict=True):
            metrics[f"token_{name}_macro"] = float(divide(values.sum(), len(tags)))
            metrics[f"token_{name}_weighted"] = float(divide((values * support).sum(), support.sum()))
        for i, tag in enumerate(tags):
            metrics |= {
                f"token_{name}/{tag}": float(values[i]) for name, values in zip(SCORES, scores, strict=True)
            }
            metrics[f"token_support/{tag}"] = float(support[i])
        return metrics


@dataclasses.dataclass(slots=True)
class LabelState:
    """The counts from which all metrics of a tagger without entities are computed. States merge in any order."""

    tokens: TokenState = dataclasses.field(default_factory=TokenState)
    # (correct words, words) of a sentence -> number of sentences with these counts
    sentences: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[Sequence[str]],
        predicted: Sequence[Sequence[str]],
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
    ) -> None:
        """Adds complete sentences, with a label for each word, and the loss of a batch as sum and weight.

        Gold labels that the model does not know are allowed and count as wrong.

        Raises:
          ValueError: gold and predicted differ in length.
        """
        batch_state = LabelState(loss_sums=[float(loss_sum)], weight_sums=[float(weight_sum)])
        for gold_labels, predicted_labels in zip(gold, predicted, strict=True):
            batch_state.tokens.update(gold_labels, predicted_labels)
            correct = sum(a == b for a, b in zip(gold_labels, predicted_labels, strict=True))
            batch_state.sentences[correct, len(gold_labels)] += 1
        self.merge(batch_state)

    def merge(self, other: "LabelState") -> None:
        """Adds another state to this one."""
        self.tokens.merge(other.tokens)
        self.sentences.update(other.sentences)
        self.loss_sums += other.loss_sums
        self.weight_sums += other.weight_sums

    def compute(self) -> dict[str, float]:
        """Returns `loss` (if any weight was added) and `token_*`; see `TokenState.compute`."""
        metrics = {}
        if weight := math.fsum(self.weight_sums):
            metrics["loss"] = math.fsum(self.loss_sums) / weight
        return metrics | self.tokens.compute()

    def intervals(self, *, samples: int = 10_000, seed: int = 0) -> dict[str, Any]:
        """Returns a 95% bootstrap interval of `token_accuracy`; see `bootstrap.percentile_intervals`."""
        # Each word has one predicted and one gold label, so precision, recall and F1 all equal the accuracy.
        triples = Counter({(correct, words, words): n for (correct, words), n in self.sentences.items()})
        intervals = bootstrap.percentile_intervals(triples, prefix="token", samples=samples, seed=seed)
        accuracy = intervals.pop("token_f1")
        del intervals["token_precision"], intervals["token_recall"]
        return intervals | {"token_accuracy": accuracy}
