"""Perplexities follow their definition, whatever batches and states the tokens came in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.metrics.language_model import LanguageModelState


def test_measures_worked_out_by_hand():
    """Four tokens of probability 1/2, 1/4, 1/8 and 1/4 spell two words in 16 bytes: 8 bits."""
    state = LanguageModelState()
    state.update(np.log([2.0, 4.0]), np.array([True, False]), word_count=1, byte_count=6)
    state.update(np.log([8.0, 4.0]), np.array([False, False]), word_count=1, byte_count=10)
    assert state.compute() == pytest.approx(
        {
            "loss": 2 * math.log(2),
            "perplexity": 4.0,
            "word_perplexity": 16.0,
            "byte_perplexity": math.sqrt(2),
            "bits_per_byte": 0.5,
            "token_accuracy": 0.25,
            "tokens": 4.0,
        }
    )


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans()), min_size=1, max_size=30), st.integers(0, 30))
def test_merged_states_equal_one_state(tokens, cut):
    def state_of(tokens):
        state = LanguageModelState()
        nll, correct = np.array([n for n, _ in tokens], np.float32), np.array([c for _, c in tokens], bool)
        state.update(nll, correct, word_count=len(tokens), byte_count=3 * len(tokens))
        return state

    state, first = state_of(tokens), state_of(tokens[:cut])
    first.merge(state_of(tokens[cut:]))
    assert first.compute() == pytest.approx(state.compute(), rel=1e-9)


def test_no_tokens_give_nan_and_huge_losses_infinity():
    empty = LanguageModelState().compute()
    assert empty.pop("tokens") == 0 and all(math.isnan(value) for value in empty.values())
    state = LanguageModelState()
    state.update(np.full(4, 500.0, np.float32), np.zeros(4, bool), word_count=1, byte_count=8)
    values = state.compute()
    assert values["word_perplexity"] == math.inf and values["perplexity"] == pytest.approx(math.exp(500))
    with pytest.raises(ValueError, match="2 likelihoods, but 1"):
        state.update(np.zeros(2), np.zeros(1, bool), word_count=0, byte_count=0)
