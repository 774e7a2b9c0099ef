"""Computes bootstrap confidence intervals of micro-averaged scores by resampling sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.metrics.f1 import SCORES, precision_recall_f1

_BLOCK = 1000  # resamples drawn at a time; bounds memory at _BLOCK x distinct triples of counts


def percentile_intervals(
    sentences: Mapping[tuple[int, int, int], int],
    *,
    prefix: str,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).

    A resample draws S sentences with replacement from S sentences and adds their counts. This is equivalent to drawing
    the frequency of each distinct triple of counts from a multinomial, which needs a draw for each distinct triple
    instead of each sentence. The result does not depend on the order of the sentences.

    Args:
      sentences: (correct, predicted, gold) counts of entities -> number of sentences with these counts.
      prefix: the beginning of the scores' names.
      samples: number of resamples.
      confidence: the probability that an interval covers.
      seed: the random seed.

    Returns:
      `{"method", "confidence", "samples", "seed", "sentences", f"{prefix}_precision": [low, high],
      f"{prefix}_recall": ..., f"{prefix}_f1": ...}` with scores in [0, 1]. Without sentences, all intervals are [0, 0].
    """
    triples = sorted(sentences)
    counts = np.array(triples, np.int64).reshape(-1, 3)
    frequency = np.array([sentences[triple] for triple in triples], np.int64)
    total = int(frequency.sum())
    result = {
        "method": "percentile bootstrap over sentences",
        "confidence": confidence,
        "samples": samples,
        "seed": seed,
        "sentences": total,
    }
    if not total:
        return result | {f"{prefix}_{name}": [0.0, 0.0] for name in SCORES}

    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.concatenate(
        [
            generator.multinomial(total, frequency / total, size=min(_BLOCK, samples - start)) @ counts
            for start in range(0, samples, _BLOCK)
        ]
    )  # [samples, 3]
    tail = (1 - confidence) / 2
    for name, values in zip(SCORES, precision_recall_f1(*sums.T), strict=True):
        result[f"{prefix}_{name}"] = [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]
    return result
