"""Tests that losses agree with torch's in value and gradient, and ignore positions without weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.losses.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    squared_error,
    step_scales,
    symmetric_divergence,
)

torch = pytest.importorskip("torch")


@settings(max_examples=40)
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

    # The loss of mixed labels is as much of the losses of each.
    def sums(labels):
        options = {"label_smoothing": smoothing, "class_weights": class_weights, "focal_gamma": 2.0}
        return np.array(
            cross_entropy(logits, jnp.asarray(labels), jnp.asarray(scored, jnp.float32), **options)
        )

    others, one_hot = (labels + 1) % classes, np.eye(classes, dtype=np.float32)
    mixed = 0.7 * one_hot[labels] + 0.3 * one_hot[others]
    np.testing.assert_allclose(sums(mixed), 0.7 * sums(labels) + 0.3 * sums(others), rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
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
    """Compares with Lin et al. 2017, equation 4, and its gradient by differences in float64."""
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
        expected = (both.reshape(3, -1).sum(-1) * torch.tensor(weights)).sum()
        ours = symmetric_divergence(jnp.asarray(a), jnp.asarray(b), jnp.asarray(weights), exclusive=exclusive)
        assert float(ours) == pytest.approx(expected.item(), rel=1e-4)


def test_smoothed_targets_of_several_labels_move_towards_a_half():
    logits, targets, weights = jnp.asarray([[0.3, -2.0]]), jnp.asarray([[1.0, 0.0]]), jnp.ones(1)
    smoothed = binary_cross_entropy(logits, targets, weights, label_smoothing=0.2)[0]
    assert float(smoothed) == pytest.approx(
        float(binary_cross_entropy(logits, jnp.asarray([[0.9, 0.1]]), weights)[0]), rel=1e-6
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


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_scales_make_means_of_sums(weights):
    """A loss of v for each label becomes v times the share of windows with labels, in any microbatches."""
    weights = np.array(weights, np.float32)
    windows = np.concatenate([weights, np.ones((len(weights), 1), np.float32)], axis=1)
    padded = np.concatenate([windows, np.zeros((3, 3), np.float32)])[:, None]
    scales = np.asarray(step_scales(jnp.asarray(padded)))[:, 0]
    assert not scales[len(weights) :].any()
    scales = scales[: len(weights)]
    for task in range(2):
        labelled = weights[:, task] > 0
        loss = (7.0 * weights[:, task] * scales[:, task]).sum()
        assert loss == pytest.approx(7.0 * labelled.mean(), rel=1e-5)
        assert len(set(scales[labelled, task])) <= 1
    assert scales[:, 2].sum() == pytest.approx(1, rel=1e-5)
