"""Tests that activations and their derivatives are jax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.layers.activations import ACTIVATIONS


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
        ("gelu_tanh", lambda x: jax.nn.gelu(x, approximate=True)),
        ("relu", jax.nn.relu),
    ],
)
def test_activations_and_their_saved_derivatives(name, reference):
    x = jnp.linspace(-9.0, 9.0, 1001) + 1e-3
    np.testing.assert_allclose(ACTIVATIONS[name](x), reference(x), atol=1e-6)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (ACTIVATIONS[name], reference))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert ACTIVATIONS[name](x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
