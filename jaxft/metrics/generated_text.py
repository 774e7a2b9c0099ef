"""How near generated texts are to their references, and how they repeat themselves, as a mergeable state."""

import dataclasses
from collections.abc import Iterator, Sequence

ROUGE = ("rouge1", "rouge2", "rougeL")
REPETITION = (2, 4)  # lengths of the n-grams whose repetition is measured


@dataclasses.dataclass(slots=True)
class GeneratedTextState:
    """Generated texts, each with the references that count as right."""

    pairs: list[tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=list)

    def update(self, prediction: str, references: Sequence[str]) -> None:
        """Adds one generated text; `ValueError` if it has no reference."""
        if not references:
            raise ValueError(f"no reference for {prediction!r}")
        self.pairs.append((prediction, tuple(references)))

    def merge(self, other: "GeneratedTextState") -> None:
        """Adds the texts of another state to this one."""
        self.pairs.extend(other.pairs)

    def compute(self) -> dict[str, float]:
        """All measures below, each in [0, 1] but for `length_ratio` and `texts`; 0 where there is no text.

        `rouge1`, `rouge2`, `rougeL`: mean F1 over texts, each with its best reference; of lower-cased, unstemmed
        words of a-z and 0-9, so that other alphabets score 0 (Lin 2004; package rouge-score).
        `bleu`: of the corpus, tokenization 13a (Papineni et al. 2002; Post 2018). `chrf`: of the corpus, chrF2
        (Popović 2015). Both by sacrebleu, whose scale is 0 to 100, divided by 100.
        `exact_match`: share of texts equal to one of their references, up to white space.
        `distinct_1`, `distinct_2`: different n-grams of all texts over all n-grams (Li et al. 2016).
        `repetition_2`, `repetition_4`: share of a text's n-grams that it had before, mean over texts; seq-rep-n
        of Welleck et al. 2020.
        `length_ratio`: words generated over words of the references, for each text the one nearest in length.
        `texts`: their number.
        """
        words = [prediction.split() for prediction, _ in self.pairs]
        right = [prediction.split() in map(str.split, references) for prediction, references in self.pairs]
        nearest = sum(_nearest_length(prediction, references) for prediction, references in self.pairs)
        return {
            **self._rouge(),
            **self._sacrebleu(),
            "exact_match": _mean(right),
            **{f"distinct_{n}": _distinct(g for text in words for g in _ngrams(text, n)) for n in (1, 2)},
            **{
                f"repetition_{n}": _mean([1 - _distinct(_ngrams(t, n)) if len(t) > n else 0.0 for t in words])
                for n in REPETITION
            },
            "length_ratio": sum(map(len, words)) / nearest if nearest else 0.0,
            "texts": float(len(self.pairs)),
        }

    def _rouge(self) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer  # slow to import

        scorer = RougeScorer(list(ROUGE))
        scores = [scorer.score_multi(references, prediction) for prediction, references in self.pairs]
        return {name: _mean([score[name].fmeasure for score in scores]) for name in ROUGE}

    def _sacrebleu(self) -> dict[str, float]:
        if not self.pairs:
            return {"bleu": 0.0, "chrf": 0.0}
        from sacrebleu.metrics import BLEU, CHRF  # slow to import

        predictions = [prediction for prediction, _ in self.pairs]
        most = max(len(references) for _, references in self.pairs)
        # sacrebleu wants the first references of all texts, the second ones, ...; None where there are fewer.
        streams = [[r[i] if i < len(r) else None for _, r in self.pairs] for i in range(most)]
        # force: of what looks tokenized already it would only warn.
        metrics = {"bleu": BLEU(force=True), "chrf": CHRF()}
        return {
            name: metric.corpus_score(predictions, streams).score / 100 for name, metric in metrics.items()
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _distinct(ngrams: Iterator[tuple[str, ...]]) -> float:
    """Share of n-grams that are the first of their kind; 0 where there are none."""
    listed = list(ngrams)
    return len(set(listed)) / len(listed) if listed else 0.0


def _nearest_length(prediction: str, references: Sequence[str]) -> int:
    """Words of the reference nearest to `prediction` in length, of two the shorter, as in BLEU."""
    length = len(prediction.split())
    return min((len(r.split()) for r in references), key=lambda other: (abs(other - length), other))
