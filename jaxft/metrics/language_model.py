"""Perplexities and bits per byte of a language model, as a mergeable state of sums."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(slots=True)
class LanguageModelState:
    """Sums over predicted tokens, and over the words and bytes of the text that these tokens spell."""

    nll: float = 0.0  # negative log-likelihood, in nats
    tokens: int = 0
    correct: int = 0  # tokens that had the highest probability
    words: int = 0
    bytes: int = 0

    def update(self, nll: np.ndarray, correct: np.ndarray, *, words: int, bytes: int) -> None:
        """Adds predicted tokens.

        Args:
          nll: float [tokens], the negative log-likelihood of each in nats; only tokens that are scored.
          correct: bool [tokens], whether each had the highest probability.
          words, bytes: of the text that the tokens spell: words between white space, bytes of UTF-8. Tokens
            that spell nothing, such as the end of a text, are part of `nll` and not of these.
        """
        if len(nll) != len(correct):
            raise ValueError(f"{len(nll)} likelihoods, but {len(correct)} tokens right or wrong")
        self.nll += float(np.sum(nll, dtype=np.float64))
        self.tokens += len(nll)
        self.correct += int(np.sum(correct))
        self.words += words
        self.bytes += bytes

    def merge(self, other: "LanguageModelState") -> None:
        """Adds the sums of another state to this one."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def compute(self) -> dict[str, float]:
        """`loss` (nats a token), `perplexity` (a token), `word_perplexity`, `byte_perplexity`, `bits_per_byte`,
        `token_accuracy` in [0, 1], `tokens`.

        NaN where there is nothing to divide by, infinite where float64 ends. Perplexities of models with
        different tokenizers can be compared by word and by byte only. Sources: Jurafsky & Martin, Speech and
        Language Processing (3rd ed.), equation 3.15; Gao et al. 2020 (The Pile), section 3.1, for bits per byte.
        """
        by_token, by_word, by_byte = (_divide(self.nll, n) for n in (self.tokens, self.words, self.bytes))
        return {
            "loss": by_token,
            "perplexity": _exp(by_token),
            "word_perplexity": _exp(by_word),
            "byte_perplexity": _exp(by_byte),
            "bits_per_byte": by_byte / math.log(2),
            "token_accuracy": _divide(self.correct, self.tokens),
            "tokens": float(self.tokens),
        }


def _divide(total: float, count: int) -> float:
    return total / count if count else math.nan


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
