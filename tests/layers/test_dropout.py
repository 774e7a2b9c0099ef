"""Tests that dropout is a pure function of (seed, site, global row, index)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers.dropout import DropoutSeed, apply_dropout, draw_keep_mask

SHAPES = st.sampled_from([(8, 4, 6), (8, 2, 5, 5), (8 * 7, 6), (8, 129)])


def seed_of(seed: int, first_row: int = 0) -> DropoutSeed:
    return DropoutSeed(jnp.uint32(seed), jnp.int32(first_row))


@settings(max_examples=12)
@given(
    SHAPES, st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(0, 10**6), st.sampled_from([1, 2, 4])
)
def test_a_row_keeps_its_mask_however_the_batch_is_split(shape, seed, site, first_row, microbatches):
    x = jnp.ones(shape)
    expected = apply_dropout(x, 0.3, seed_of(seed, first_row), site, rows=8)
    split = [
        apply_dropout(
            rows, 0.3, seed_of(seed, first_row + index * 8 // microbatches), site, rows=8 // microbatches
        )
        for index, rows in enumerate(jnp.split(x, microbatches))
    ]
    np.testing.assert_array_equal(expected, jnp.concatenate(split))


def test_flat_and_unflat_activations_of_a_microbatch_split_under_jit_as_outside():
    x = jnp.ones((4 * 7, 6))
    inside = jax.jit(lambda x, seed, site: apply_dropout(x, 0.5, seed, site, rows=4))(
        x, seed_of(3, 2), jnp.int32(5)
    )
    np.testing.assert_array_equal(inside, apply_dropout(x, 0.5, seed_of(3, 2), 5, rows=4))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_masks_have_their_rate_and_are_independent(rate):
    """Checks rates and correlations over elements, rows, seeds and sites, to 5 standard errors."""
    rows, columns = 256, 384
    mask = {
        (seed, site): np.asarray(draw_keep_mask((rows, columns), rate, seed_of(seed), site, rows))
        for seed in (0, 1, 2**32 - 1)
        for site in (0, 1, 2)
    }
    base = mask[0, 0]
    error = np.sqrt(rate * (1 - rate) / base.size)
    assert all(abs(m.mean() - (1 - rate)) < 5 * error for m in mask.values())
    # Both axes: no row or column of the mask is fuller than chance makes it.
    for axis in (0, 1):
        per_line = np.sqrt(rate * (1 - rate) / base.shape[axis])
        assert abs(base.mean(axis) - (1 - rate)).max() < 5 * per_line + 1e-9
    neighbours = [base[1:, :], base[:, 1:], mask[1, 0], mask[0, 1], mask[2**32 - 1, 0], mask[1, 2]]
    for other in neighbours:
        same_size = base[: other.shape[0], : other.shape[1]]
        assert abs(np.corrcoef(same_size.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(same_size.size)
    one_element = [bool(draw_keep_mask((1, 1), rate, seed_of(seed), 0, 1)[0, 0]) for seed in range(300)]
    assert abs(np.mean(one_element) - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / 300)


def test_dropout_scales_what_it_keeps_and_its_gradient_has_the_same_mask():
    x = jax.random.normal(jax.random.key(0), (16, 64)) + 3.0
    y, pull_back = jax.vjp(lambda x: apply_dropout(x, 0.25, seed_of(7), 3), x)
    kept = np.asarray(y) != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    (gradient,) = pull_back(jnp.ones_like(y))
    np.testing.assert_allclose(gradient, kept / 0.75, rtol=1e-6)


def test_no_seed_or_no_rate_is_the_identity():
    x = jnp.arange(6.0).reshape(2, 3)
    assert apply_dropout(x, 0.5, None, 0) is x
    assert apply_dropout(x, 0.0, seed_of(1), 0) is x
