"""Computes precision, recall and F1 from counts. They are 0 if the denominator is 0."""

import numpy as np

SCORES = ("precision", "recall", "f1")


def divide(numerator: np.ndarray | float, denominator: np.ndarray | float) -> np.ndarray:
    """Returns the quotient in float64, with the broadcast shape. If a denominator is 0, it is 0, without a warning."""
    numerator, denominator = np.broadcast_arrays(np.float64(numerator), np.float64(denominator))
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def precision_recall_f1(
    correct: np.ndarray | float, predicted: np.ndarray | float, gold: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns precision c/p, recall c/g and F1 2c/(p+g), in [0, 1], from counts of the same shape.

    F1 is the harmonic mean of the other two (van Rijsbergen, Information Retrieval, 1979, with equal weights).
    """
    predicted, gold = np.float64(predicted), np.float64(gold)
    return (
        divide(correct, predicted),
        divide(correct, gold),
        divide(2 * np.float64(correct), predicted + gold),
    )
