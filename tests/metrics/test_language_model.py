"""Perplexities are those of the definition, whatever batches and states the tokens came in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.metrics.language_model import LanguageModelState


def test_by_hand():
    """Four tokens of probability 1/2, 1/4, 1/8 and 1/4 spell two words in 16 bytes: 8 bits."""
    state = LanguageModelState()
    state.update(np.log([2.0, 4.0]), np.array([True, False]), words=1, bytes=6)
    state.update(np.log([8.0, 4.0]), np.array([False, False]), words=1, bytes=10)
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
def test_merged_parts_are_the_whole(tokens, cut):
    def state_of(part):
        state = LanguageModelState()
        nll, correct = np.array([n for n, _ in part], np.float32), np.array([c for _, c in part], bool)
        state.update(nll, correct, words=len(part), bytes=3 * len(part))
        return state

    whole, first = state_of(tokens), state_of(tokens[:cut])
    first.merge(state_of(tokens[cut:]))
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-9)


def test_nothing_is_not_a_number_and_too_much_is_infinite():
    empty = LanguageModelState().compute()
    assert empty.pop("tokens") == 0 and all(math.isnan(value) for value in empty.values())
    state = LanguageModelState()
    state.update(np.full(4, 500.0, np.float32), np.zeros(4, bool), words=1, bytes=8)
    values = state.compute()
    assert values["word_perplexity"] == math.inf and values["perplexity"] == pytest.approx(math.exp(500))
    with pytest.raises(ValueError, match="2 likelihoods, but 1"):
        state.update(np.zeros(2), np.zeros(1, bool), words=0, bytes=0)
