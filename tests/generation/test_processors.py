"""Processors equal transformers' on random scores, and draws invert the cumulative distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from jaxft.generation import processors

ROWS, VOCABULARY, LENGTH = 3, 40, 17


def random_scores(seed: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3.0, size=(ROWS, vocabulary)).astype(np.float32)


def random_tokens(seed: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[R, T]` of `words` different ones, and the column of each row's first token."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, words, (ROWS, LENGTH)).astype(np.int32), rng.integers(0, LENGTH, ROWS)


SEEDS = st.integers(0, 10**6)


@settings(max_examples=25)
@given(SEEDS, st.floats(0.01, 0.999))
def test_top_p_is_transformers(seed, mass):
    scores = random_scores(seed)
    expected = theirs.TopPLogitsWarper(mass)(None, torch.tensor(scores)).numpy()
    np.testing.assert_array_equal(jax.jit(processors.keep_top_p)(scores, mass), expected)


@settings(max_examples=25)
@given(SEEDS, st.floats(0.001, 1.0))
def test_min_p_is_transformers(seed, share):
    scores = random_scores(seed)
    expected = theirs.MinPLogitsWarper(share)(None, torch.tensor(scores)).numpy()
    np.testing.assert_array_equal(jax.jit(processors.keep_min_p)(scores, share), expected)


@settings(max_examples=25)
@given(SEEDS, st.integers(1, VOCABULARY + 3))
def test_top_k_is_transformers(seed, count):
    scores = random_scores(seed)
    values, index = processors.select_top_k(scores, count)
    ours = np.full_like(scores, -np.inf)
    np.put_along_axis(ours, np.asarray(index), np.asarray(values), axis=1)
    np.testing.assert_array_equal(ours, theirs.TopKLogitsWarper(count)(None, torch.tensor(scores)).numpy())


@settings(max_examples=25)
@given(SEEDS, st.floats(0.2, 5.0), st.integers(1, VOCABULARY))
def test_repetition_penalty_ignores_padding(seed, penalty, words):
    scores, (tokens, start) = random_scores(seed), random_tokens(seed, words)
    is_token = np.arange(LENGTH) >= start[:, None]
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty, torch.tensor(start))(
        torch.tensor(tokens).long(), torch.tensor(scores)
    )
    ours = jax.jit(processors.penalize_repetition)(scores, tokens, is_token, penalty)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6), st.integers(0, 4))
def test_ngrams_are_not_repeated(seed, size, words, room):
    """Rows have no padding, which transformers does not know; columns after the end hold anything."""
    scores, (tokens, _) = random_scores(seed), random_tokens(seed, words)
    end = LENGTH - room
    expected = theirs.NoRepeatNGramLogitsProcessor(size)(
        torch.tensor(tokens[:, :end]).long(), torch.tensor(scores)
    )
    is_token = np.broadcast_to(np.arange(LENGTH) < end, tokens.shape)
    ours = processors.forbid_repeated_ngrams(jnp.asarray(scores), tokens, is_token, end, size)
    np.testing.assert_array_equal(ours, expected.numpy())


def test_ngrams_of_padding_forbid_nothing():
    tokens = np.array([[0, 0, 0, 1, 0]], np.int32)
    scores = jnp.zeros((1, 3))
    is_token = np.arange(5)[None] >= 2
    np.testing.assert_array_equal(
        processors.forbid_repeated_ngrams(scores, tokens, is_token, 5, 2), [[0, -np.inf, 0]]
    )
    np.testing.assert_array_equal(processors.forbid_repeated_ngrams(scores, tokens, is_token, 5, 6), scores)


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 1000), st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3))
def test_a_draw_inverts_the_cumulative_distribution(seed, vocabulary, uniforms):
    scores = random_scores(seed, vocabulary)
    scores[:, 1::3] = -np.inf
    uniform = np.minimum(np.array(uniforms, np.float32), np.nextafter(np.float32(1), np.float32(0)))
    chosen = np.asarray(jax.jit(processors.draw)(scores, uniform))
    assert np.isfinite(scores[np.arange(ROWS), chosen]).all()
    shares = np.exp(scores.astype(np.float64))
    ends = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    ends = np.concatenate([np.zeros((ROWS, 1)), ends], axis=1)
    for row, index in enumerate(chosen):
        assert ends[row, index] - 1e-5 <= uniform[row] <= ends[row, index + 1] + 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0 - 2**-24])
def test_a_draw_at_either_end_is_possible(value):
    scores = np.full((1, 600), -np.inf, np.float32)
    scores[0, 300], scores[0, 301] = 0.0, -1.0
    chosen = int(processors.draw(jnp.asarray(scores), jnp.full(1, value, jnp.float32))[0])
    assert chosen == (300 if value == 0 else 301)
