"""Computes perplexities and bits per byte of a language model, from a mergeable state of sums."""

import dataclasses
import math
from typing import Self

import numpy as np


@dataclasses.dataclass(slots=True)
class TokenState:
    """Sums over predicted tokens."""

    nll: float = 0.0  # negative log-likelihood, in nats
    token_count: int = 0
    correct_count: int = 0  # number of tokens that had the highest probability

    def add_tokens(self, nll: np.ndarray, correct: np.ndarray) -> None:
        """Adds predicted tokens.

        Args:
          nll: float `[tokens]`, the negative log-likelihood of each scored token, in nats.
          correct: bool `[tokens]`, True if the token had the highest probability.
        """
        if len(nll) != len(correct):
            raise ValueError(f"{len(nll)} likelihoods, but {len(correct)} tokens right or wrong")
        self.nll += float(np.sum(nll, dtype=np.float64))
        self.token_count += len(nll)
        self.correct_count += int(np.sum(correct))

    def merge(self, other: Self) -> None:
        """Adds the sums of another state to this one."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def compute(self) -> dict[str, float]:
        """Returns `loss` (nats per token), `perplexity`, `token_accuracy` (in [0, 1]) and `tokens`; NaN without tokens.

        Source: Jurafsky & Martin, Speech and Language Processing (3rd ed.), equation 3.15.
        """
        loss = _divide(self.nll, self.token_count)
        return {
            "loss": loss,
            "perplexity": _exp(loss),
            "token_accuracy": _divide(self.correct_count, self.token_count),
            "tokens": float(self.token_count),
        }


@dataclasses.dataclass(slots=True)
class LanguageModelState(TokenState):
    """Sums over the predicted tokens, and over the words and bytes that these tokens spell."""

    word_count: int = 0
    byte_count: int = 0

    def update(self, nll: np.ndarray, correct: np.ndarray, *, word_count: int, byte_count: int) -> None:
        """Adds predicted tokens.

        Args:
          nll: float `[tokens]`, the negative log-likelihood of each scored token, in nats.
          correct: bool `[tokens]`, True if the token had the highest probability.
          word_count: number of words, separated by white space, in the text that the tokens spell.
          byte_count: number of bytes of this text in UTF-8. Tokens that spell nothing, such as the end token, count in
            `nll` but not in `word_count` and `byte_count`.
        """
        self.add_tokens(nll, correct)
        self.word_count += word_count
        self.byte_count += byte_count

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name.

        The names are `loss` (nats per token), `perplexity` (per token), `word_perplexity`, `byte_perplexity`,
        `bits_per_byte`, `token_accuracy` (in [0, 1]) and `tokens` (number of tokens). A metric is NaN if its divisor is
        0, and infinite beyond the range of float64. Compare models with different tokenizers only per word or per byte.

        Sources: Jurafsky & Martin, Speech and Language Processing (3rd ed.), equation 3.15; Gao et al. 2020 (The
        Pile), section 3.1, for bits per byte.
        """
        by_token, by_word, by_byte = (
            _divide(self.nll, n) for n in (self.token_count, self.word_count, self.byte_count)
        )
        return {
            "loss": by_token,
            "perplexity": _exp(by_token),
            "word_perplexity": _exp(by_word),
            "byte_perplexity": _exp(by_byte),
            "bits_per_byte": by_byte / math.log(2),
            "token_accuracy": _divide(self.correct_count, self.token_count),
            "tokens": float(self.token_count),
        }


def _divide(total: float, count: int) -> float:
    return total / count if count else math.nan


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
