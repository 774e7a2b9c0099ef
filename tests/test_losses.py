"""The loss agrees with torch's in value and gradient, and positions without weight are nowhere in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.losses import cross_entropy

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


def test_without_weight_even_nan_contributes_nothing():
    logits = jnp.array([[0.0, 1.0], [jnp.nan, 1.0], [jnp.inf, -jnp.inf]])
    labels, weights = jnp.array([1, 0, 1]), jnp.array([1.0, 0.0, 0.0])
    (total, weight), gradient = jax.value_and_grad(
        lambda x: cross_entropy(x, labels, weights, label_smoothing=0.1), has_aux=True
    )(logits)
    alone = cross_entropy(logits[:1], labels[:1], weights[:1], label_smoothing=0.1)
    assert (float(total), float(weight)) == (float(alone[0]), 1.0)
    assert np.isfinite(gradient).all() and not gradient[1:].any() and gradient[0].any()
