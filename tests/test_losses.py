"""The loss agrees with torch's in value and gradient, and positions without weight are nowhere in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.losses import (
    binary_cross_entropy,
    chunked_cross_entropy,
    chunked_scores,
    cross_entropy,
    divergence,
    squared_error,
)

torch = pytest.importorskip("torch")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 9]), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_value_and_gradient_are_those_of_torch(seed, classes, smoothing, weighted):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(3, 7, classes)) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
    labels = rng.integers(0, classes, (3, 7)).astype(np.int32)
    scored = rng.random((3, 7)) < 0.6
    scored[0, 0] = True
    class_weights = rng.uniform(0.1, 3, classes).astype(np.float32) if weighted else None

    def mean(x):
        options = {"label_smoothing": smoothing, "class_weights": class_weights}
        total, weight = cross_entropy(x, labels, jnp.asarray(scored, jnp.float32), **options)
        return total / weight

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(logits))
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.CrossEntropyLoss(
        weight=None if class_weights is None else torch.tensor(class_weights),
        ignore_index=-100,
        label_smoothing=smoothing,
    )(x.flatten(0, 1), torch.tensor(np.where(scored, labels, -100)).flatten().long())
    theirs.backward()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_losses_of_several_labels_and_of_numbers_are_torchs(seed, weighted):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(5, 4)) * 10 ** rng.uniform(-2, 1.5)).astype(np.float32)
    targets = (rng.random((5, 4)) < 0.5).astype(np.float32)
    scored = np.array([1, 1, 0, 1, 0], np.float32)
    positive = rng.uniform(0.1, 3, 4).astype(np.float32) if weighted else None
    numbers = rng.normal(size=5).astype(np.float32)

    def binary(x):
        total, weight = binary_cross_entropy(x, targets, scored, class_weights=positive)
        return total / weight

    def squared(x):
        total, weight = squared_error(x[:, 0], numbers, scored)
        return total / weight

    x = torch.tensor(logits, requires_grad=True)
    kept = torch.tensor(scored > 0)
    weights = None if positive is None else torch.tensor(positive)
    for ours, theirs in (
        (binary, torch.nn.BCEWithLogitsLoss(pos_weight=weights)(x[kept], torch.tensor(targets)[kept])),
        (squared, torch.nn.MSELoss()(x[kept][:, 0], torch.tensor(numbers)[kept])),
    ):
        x.grad = None
        theirs.backward()
        value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
        np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
        np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_its_formula_and_smooth_where_all_is_certain(gamma):
    """Lin et al. 2017, equation 4, and its gradient by differences in float64."""
    logits = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])
    labels, ones = np.array([0, 2]), jnp.ones(2)

    def by_hand(x):
        p = (np.exp(x) / np.exp(x).sum(-1, keepdims=True))[[0, 1], labels]
        return float(-((1 - p) ** gamma * np.log(p)).sum())

    def ours(x):
        return cross_entropy(x, labels, ones, focal_gamma=gamma)[0]

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits, jnp.float32))
    assert float(value) == pytest.approx(by_hand(logits), rel=1e-5)
    moved = [(by_hand(logits + d) - by_hand(logits - d)) / 2e-5 for d in 1e-5 * np.eye(6).reshape(6, 2, 3)]
    np.testing.assert_allclose(np.ravel(gradient), moved, rtol=1e-3)
    targets = jnp.asarray([[1.0, 0, 1], [0, 0, 1]])
    p = 1 / (1 + np.exp(-logits))
    right = np.where(targets > 0, p, 1 - p)
    value = binary_cross_entropy(jnp.asarray(logits, jnp.float32), targets, ones, focal_gamma=gamma)[0]
    assert float(value) == pytest.approx(-((1 - right) ** gamma * np.log(right)).sum(), rel=1e-5)
    certain = jnp.asarray([[90.0, -90.0, -90.0]] * 2)
    for loss, gold in (
        (cross_entropy, jnp.zeros(2, int)),
        (binary_cross_entropy, jnp.eye(3)[:1].repeat(2, 0)),
    ):
        gradient = jax.grad(lambda x, f=loss, y=gold: f(x, y, ones, focal_gamma=gamma)[0])(certain)
        assert np.isfinite(gradient).all()


def test_the_divergence_is_the_mean_of_both_directions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
    weights = np.array([1.0, 0.0, 0.5], np.float32)
    kl = torch.nn.functional.kl_div
    for exclusive in (True, False):
        if exclusive:
            p, q = (torch.tensor(x).log_softmax(-1) for x in (a, b))
        else:  # two outcomes of each class
            p, q = (torch.nn.functional.logsigmoid(torch.tensor(np.stack([x, -x], -1))) for x in (a, b))
        both = (kl(p, q, reduction="none", log_target=True) + kl(q, p, reduction="none", log_target=True)) / 2
        want = (both.reshape(3, -1).sum(-1) * torch.tensor(weights)).sum()
        ours = divergence(jnp.asarray(a), jnp.asarray(b), jnp.asarray(weights), exclusive=exclusive)
        assert float(ours) == pytest.approx(want.item(), rel=1e-4)


def test_smoothed_targets_of_several_labels_move_towards_a_half():
    logits, targets, one = jnp.asarray([[0.3, -2.0]]), jnp.asarray([[1.0, 0.0]]), jnp.ones(1)
    smoothed = binary_cross_entropy(logits, targets, one, label_smoothing=0.2)[0]
    assert float(smoothed) == pytest.approx(
        float(binary_cross_entropy(logits, jnp.asarray([[0.9, 0.1]]), one)[0]), rel=1e-6
    )


def test_without_weight_even_nan_contributes_nothing():
    logits = jnp.array([[0.0, 1.0], [jnp.nan, 1.0], [jnp.inf, -jnp.inf]])
    labels, weights = jnp.array([1, 0, 1]), jnp.array([1.0, 0.0, 0.0])
    (total, weight), gradient = jax.value_and_grad(
        lambda x: cross_entropy(x, labels, weights, label_smoothing=0.1), has_aux=True
    )(logits)
    alone = cross_entropy(logits[:1], labels[:1], weights[:1], label_smoothing=0.1)
    assert (float(total), float(weight)) == (float(alone[0]), 1.0)
    assert np.isfinite(gradient).all() and not gradient[1:].any() and gradient[0].any()


def _plain(hidden, embedding, labels, weights):
    """The loss sum from whole logits, in float32."""
    logits = hidden.astype(jnp.float32) @ embedding.astype(hidden.dtype).astype(jnp.float32).T
    weighted = (weights > 0)[:, None]
    return cross_entropy(jnp.where(weighted, logits, 0), labels, weights)[0]


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    positions=st.sampled_from([1, 7, 20]),
    chunk=st.sampled_from([1, 4, 7, 64]),
    weighted=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
    table=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_chunks_have_value_and_gradient_of_the_whole(seed, positions, chunk, weighted, dtype, table):
    """Whatever the chunks, the dtypes and the weights; the loss scaled by what stands outside."""
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(positions, 5)) * 10 ** rng.uniform(-1, 1), dtype)
    embedding = jnp.asarray(rng.normal(size=(33, 5)), table)
    labels = rng.integers(0, 33, positions).astype(np.int32)
    weights = (rng.uniform(0.5, 2, positions) * (rng.random(positions) < weighted)).astype(np.float32)

    def chunked(hidden, embedding):
        total, weight = chunked_cross_entropy(hidden, embedding, labels, weights, chunk=chunk)
        return 3 * total, weight

    (value, weight), ours = jax.value_and_grad(chunked, (0, 1), has_aux=True)(hidden, embedding)
    want, theirs = jax.value_and_grad(lambda h, e: 3 * _plain(h, e, labels, weights), (0, 1))(
        hidden.astype(jnp.float32),
        embedding.astype(dtype).astype(float),
    )
    alone = chunked_cross_entropy(hidden, embedding, labels, weights, chunk=chunk)[0]
    assert ours[0].dtype == dtype and ours[1].dtype == table
    assert float(weight) == pytest.approx(weights.sum(), rel=1e-6)
    np.testing.assert_allclose([value, 3 * alone], [want, want], rtol=1e-5, atol=1e-6)
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
    want, wanted = jax.value_and_grad(_plain, (0, 1))(
        jnp.asarray(hidden[kept]), embedding, labels[kept], weights[kept]
    )
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradients[0][kept], wanted[0], atol=1e-6)
    np.testing.assert_allclose(gradients[1], wanted[1], atol=1e-6)
    assert not gradients[0][~kept].any()
    for wrong in (
        -100,
        9,
    ):  # a label outside the vocabulary stops the run, instead of training on another word
        assert np.isnan(loss(jnp.asarray(hidden), embedding, np.where(labels == 8, wrong, labels)))


def test_scores_by_position():
    rng = np.random.default_rng(1)
    hidden, embedding = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((11, 4), (9, 4)))
    logits = hidden @ embedding.T
    labels = jnp.where(jnp.arange(11) % 2, jnp.argmax(logits, -1), rng.integers(0, 9, 11)).astype(jnp.int32)
    weights = jnp.asarray(rng.random(11) < 0.6, jnp.float32)
    losses, correct = chunked_scores(hidden, embedding, labels, weights, chunk=4)
    want = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(losses, want * weights, atol=1e-6)
    assert (correct == (jnp.argmax(logits, -1) == labels) & (weights > 0)).all() and correct.any()


def test_a_large_vocabulary_takes_several_times_less_memory_in_chunks():
    """GPT-2 small, rows of 8 x 1024, from the compiler."""
    positions, width, words = 8 * 1024, 768, 50_257
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((positions, width), (words, width), (positions,))
    ]
    labels = jax.ShapeDtypeStruct((positions,), jnp.int32)

    def chunked(hidden, embedding, weights, labels):
        return chunked_cross_entropy(hidden, embedding, labels, weights)[0]

    def whole(hidden, embedding, weights, labels):
        return _plain(hidden, embedding, labels, weights)

    def temporaries(loss) -> int:
        step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes, labels).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert temporaries(chunked) < 0.3 * 4 * positions * words < temporaries(whole) / 3
