"""Measures the overlap of a generated text with its references: ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004).

The scores equal those of the package rouge-score 0.1.2 without its stemmer. That package is no longer maintained, comes
without a wheel, and needs nltk; its ROUGE-L takes Python steps and memory for each pair of words.
"""

import re
from collections import Counter
from collections.abc import Sequence

ROUGE = ("rouge1", "rouge2", "rougeL")


def measure_rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Returns the F1 of each of `ROUGE`, in [0, 1], each for the reference with which it is highest."""
    words = _split_words(prediction)
    scores = [_compare(words, _split_words(reference)) for reference in references]
    return dict(zip(ROUGE, map(max, zip(*scores, strict=True)), strict=True))


def _split_words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def _compare(prediction: list[str], reference: list[str]) -> tuple[float, ...]:
    """Returns the F1 of each of `ROUGE`."""
    n_grams = [
        _f1(_count_common(prediction, reference, n), len(prediction) - n + 1, len(reference) - n + 1)
        for n in (1, 2)
    ]
    return *n_grams, _f1(_longest_subsequence(prediction, reference), len(prediction), len(reference))


def _f1(common: int, predicted: int, expected: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / predicted, common / expected
    # With the operations in this order, scores equal rouge-score's to the last bit.
    return 2 * precision * recall / (precision + recall)


def _count_common(first: list[str], second: list[str], n: int) -> int:
    """Counts the n-grams that both have, each as often as it occurs in both."""
    counts = [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (first, second)]
    return (counts[0] & counts[1]).total()


def _longest_subsequence(first: list[str], second: list[str]) -> int:
    """Returns the length of the longest common subsequence.

    Bit i of an integer stands for word i of `first`, so that a word of `second` updates a row of the usual table at
    once (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    every_word = (1 << len(first)) - 1
    unmatched = every_word
    for word in second:
        hits = unmatched & places.get(word, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & every_word
    return len(first) - unmatched.bit_count()
