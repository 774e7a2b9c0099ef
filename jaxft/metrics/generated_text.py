"""Measures the similarity of generated texts to references, and their repetitions, as a mergeable state."""

import dataclasses
from collections.abc import Iterator, Sequence

from jaxft.metrics.rouge import ROUGE, measure_rouge

REPETITION = (2, 4)  # lengths of the n-grams whose repetition is measured


@dataclasses.dataclass(slots=True)
class GeneratedTextState:
    """Generated texts, each with its references. Any reference counts as correct."""

    pairs: list[tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=list)

    def update(self, prediction: str, references: Sequence[str]) -> None:
        """Adds a generated text. Raises `ValueError` if it has no reference."""
        if not references:
            raise ValueError(f"no reference for {prediction!r}")
        self.pairs.append((prediction, tuple(references)))

    def merge(self, other: "GeneratedTextState") -> None:
        """Adds the texts of another state to this one."""
        self.pairs.extend(other.pairs)

    def compute(self) -> dict[str, float]:
        """Returns the metrics below. All are in [0, 1] except `length_ratio` and `texts`, and all are 0 without texts.

        - `rouge1`, `rouge2`, `rougeL`: mean F1 over texts, each with its best reference. Words are lower-cased,
          unstemmed sequences of a-z and 0-9, so other alphabets score 0 (Lin 2004; as rouge-score computes them).
        - `bleu`: corpus BLEU with tokenization 13a (Papineni et al. 2002; Post 2018).
        - `chrf`: corpus chrF2 (Popović 2015). sacrebleu computes `chrf` and `bleu` on a scale of 0 to 100; they are
          divided by 100 here.
        - `exact_match`: the share of texts that equal one of their references, ignoring differences in white space.
        - `distinct_1`, `distinct_2`: the number of distinct n-grams of all texts over the number of all n-grams (Li et
          al. 2016).
        - `repetition_2`, `repetition_4`: the share of a text's n-grams that occurred in it before, averaged over texts
          (seq-rep-n of Welleck et al. 2020).
        - `length_ratio`: generated words over reference words. Each text counts its reference of the nearest length.
        - `texts`: number of texts.
        """
        words = [prediction.split() for prediction, _ in self.pairs]
        is_exact = [prediction.split() in map(str.split, references) for prediction, references in self.pairs]
        reference_words = sum(
            _nearest_length(prediction, references) for prediction, references in self.pairs
        )
        return {
            **self._rouge(),
            **self._sacrebleu(),
            "exact_match": _mean(is_exact),
            **{f"distinct_{n}": _distinct(g for text in words for g in _ngrams(text, n)) for n in (1, 2)},
            **{
                f"repetition_{n}": _mean([1 - _distinct(_ngrams(t, n)) if len(t) > n else 0.0 for t in words])
                for n in REPETITION
            },
            "length_ratio": sum(map(len, words)) / reference_words if reference_words else 0.0,
            "texts": float(len(self.pairs)),
        }

    def _rouge(self) -> dict[str, float]:
        scores = [measure_rouge(prediction, references) for prediction, references in self.pairs]
        return {name: _mean([score[name] for score in scores]) for name in ROUGE}

    def _sacrebleu(self) -> dict[str, float]:
        if not self.pairs:
            return {"bleu": 0.0, "chrf": 0.0}
        from sacrebleu.metrics import BLEU, CHRF  # slow to import

        predictions = [prediction for prediction, _ in self.pairs]
        most_references = max(len(references) for _, references in self.pairs)
        # sacrebleu takes the first references of all texts, then the second ones, ...; None if a text has fewer.
        streams = [[r[i] if i < len(r) else None for _, r in self.pairs] for i in range(most_references)]
        # `force` suppresses a warning about text that looks tokenized.
        metrics = {"bleu": BLEU(force=True), "chrf": CHRF()}
        return {
            name: metric.corpus_score(predictions, streams).score / 100 for name, metric in metrics.items()
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _distinct(ngrams: Iterator[tuple[str, ...]]) -> float:
    """Returns the number of distinct n-grams over the number of all n-grams; 0 without n-grams."""
    listed = list(ngrams)
    return len(set(listed)) / len(listed) if listed else 0.0


def _nearest_length(prediction: str, references: Sequence[str]) -> int:
    """Counts the words of the reference nearest to `prediction` in length; on ties, of the shorter, as in BLEU."""
    length = len(prediction.split())
    return min((len(r.split()) for r in references), key=lambda other: (abs(other - length), other))
