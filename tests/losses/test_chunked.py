"""Tests that the loss over a vocabulary in chunks has the value and gradient of one piece, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.losses.chunked import chunked_cross_entropy, chunked_predictions, chunked_scores
from jaxft.losses.cross_entropy import cross_entropy


def _plain(hidden, embedding, labels, weights, bias=0.0):
    """Computes the loss sum from all logits, in float32."""
    logits = hidden.astype(jnp.float32) @ embedding.astype(hidden.dtype).astype(jnp.float32).T + bias
    weighted = (weights > 0)[:, None]
    return cross_entropy(jnp.where(weighted, logits, 0), labels, weights)[0]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    positions=st.sampled_from([1, 7, 20]),
    chunk=st.sampled_from([1, 4, 7, 64]),
    weighted=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
    table=st.sampled_from([jnp.float32, jnp.bfloat16]),
    has_bias=st.booleans(),
)
def test_chunks_have_value_and_gradient_of_the_whole(
    seed, positions, chunk, weighted, dtype, table, has_bias
):
    """Draws chunks, dtypes and weights, and scales the loss by a constant."""
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(positions, 5)) * 10 ** rng.uniform(-1, 1), dtype)
    embedding = jnp.asarray(rng.normal(size=(33, 5)), table)
    labels = rng.integers(0, 33, positions).astype(np.int32)
    weights = (rng.uniform(0.5, 2, positions) * (rng.random(positions) < weighted)).astype(np.float32)

    bias = jnp.asarray(rng.normal(size=33), jnp.float32)

    def chunked(hidden, embedding, bias):
        options = {"bias": bias if has_bias else None, "chunk": chunk}
        total, weight = chunked_cross_entropy(hidden, embedding, labels, weights, **options)
        return 3 * total, weight

    (value, weight), ours = jax.value_and_grad(chunked, (0, 1, 2), has_aux=True)(hidden, embedding, bias)
    expected, theirs = jax.value_and_grad(
        lambda h, e, b: 3 * _plain(h, e, labels, weights, b * has_bias), (0, 1, 2)
    )(hidden.astype(jnp.float32), embedding.astype(dtype).astype(float), bias)
    alone = chunked(hidden, embedding, bias)[0] / 3
    assert ours[0].dtype == dtype and ours[1].dtype == table
    assert float(weight) == pytest.approx(weights.sum(), rel=1e-6)
    np.testing.assert_allclose([value, 3 * alone], [expected, expected], rtol=1e-5, atol=1e-6)
    error = 1e-5 if dtype == table == jnp.float32 else 2**-6  # two roundings to 8 bits
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=error * (1e-3 + float(jnp.abs(b).max())))


def test_chunks_leave_out_what_has_no_weight_and_tell_what_has_a_wrong_label():
    rng = np.random.default_rng(0)
    hidden, embedding = rng.normal(size=(6, 4)).astype(np.float32), jnp.asarray(rng.normal(size=(9, 4)), "f4")
    labels, weights = np.array([3, -100, 8, 0, 999, 5]), np.array([1, 0, 2, 1, 0, 0], np.float32)
    hidden[[1, 4, 5]] = np.array([[np.nan], [np.inf], [-np.inf]])
    kept = weights > 0

    def loss(h, e, labels=labels):
        return chunked_cross_entropy(h, e, labels, weights, chunk=2)[0]

    value, gradients = jax.value_and_grad(loss, (0, 1))(jnp.asarray(hidden), embedding)
    expected, expected_gradients = jax.value_and_grad(_plain, (0, 1))(
        jnp.asarray(hidden[kept]), embedding, labels[kept], weights[kept]
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients[0][kept], expected_gradients[0], atol=1e-6)
    np.testing.assert_allclose(gradients[1], expected_gradients[1], atol=1e-6)
    assert not gradients[0][~kept].any()
    # A label outside the vocabulary stops the run, instead of training on another word.
    for wrong in (-100, 9):
        assert np.isnan(loss(jnp.asarray(hidden), embedding, np.where(labels == 8, wrong, labels)))


def test_scores_by_position():
    rng = np.random.default_rng(1)
    hidden, embedding = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((11, 4), (9, 4)))
    logits = hidden @ embedding.T
    labels = jnp.where(jnp.arange(11) % 2, jnp.argmax(logits, -1), rng.integers(0, 9, 11)).astype(jnp.int32)
    weights = jnp.asarray(rng.random(11) < 0.6, jnp.float32)
    losses, correct = chunked_scores(hidden, embedding, labels, weights, chunk=4)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(losses, expected * weights, atol=1e-6)
    assert (correct == (jnp.argmax(logits, -1) == labels) & (weights > 0)).all() and correct.any()


def test_predictions_by_position():
    rng = np.random.default_rng(1)
    hidden, embedding, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((11, 4), (9, 4), (9,))
    )
    labels = rng.integers(0, 9, 11).astype(np.int32)
    weights = jnp.asarray(rng.random(11) < 0.6, jnp.float32)
    options = {"bias": bias, "count": 3, "chunk": 4}
    losses, words, probabilities = chunked_predictions(hidden, embedding, labels, weights, **options)
    log_probabilities = jax.nn.log_softmax(hidden @ embedding.T + bias)
    expected = -jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(losses, expected * weights, atol=1e-6)
    best, best_words = jax.lax.top_k(jnp.exp(log_probabilities), 3)
    np.testing.assert_allclose(probabilities, best * weights[:, None], atol=1e-6)
    np.testing.assert_array_equal(words, best_words * (weights > 0)[:, None])


def test_a_large_vocabulary_takes_several_times_less_memory_in_chunks():
    """Asks the compiler, for GPT-2 small and a batch of 8 x 1024."""
    positions, width, words = 8 * 1024, 768, 50_257
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((positions, width), (words, width), (positions,))
    ]
    labels = jax.ShapeDtypeStruct((positions,), jnp.int32)

    def chunked(hidden, embedding, weights, labels):
        return chunked_cross_entropy(hidden, embedding, labels, weights)[0]

    def unchunked(hidden, embedding, weights, labels):
        return _plain(hidden, embedding, labels, weights)

    def temporary_bytes(loss) -> int:
        step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes, labels).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(chunked) < 0.3 * 4 * positions * words < temporary_bytes(unchunked) / 3
