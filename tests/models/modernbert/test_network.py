"""Tests what ModernBERT alone has: windows in segments longer and shorter than they are, and angles by position."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxft.layers.attention.rotary import make_rotation, rotate
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.modernbert.config import GLOBAL, LOCAL
from tests.models import torch_parity

# Windows see 8 positions on each side: segments end before, at and behind them.
ROWS = ((70, 1, 7), (8, 9, 10, 16, 17, 18))


@pytest.mark.parametrize("layer_types", [pytest.param((LOCAL,), marks=pytest.mark.sweep), (GLOBAL, LOCAL)])
def test_windows_within_segments_are_torchs(layer_types):
    config = torch_parity.example_shape("modernbert", seed=1)
    config = dataclasses.replace(config, layer_types=layer_types, local_attention=17, max_positions=70)
    torch_parity.assert_is_torchs(config, HeadKind.TOKEN, seed=0, dtype="float64", rows=ROWS)


@pytest.mark.sweep
def test_both_of_torchs_implementations_are_ours(monkeypatch):
    """In float32, because torch's eager one rounds to it. The other tests have the default, which is sdpa."""
    make_torch = torch_parity.make_torch

    def make_eager(*args, **options):
        model = make_torch(*args, **options)
        assert model.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        return model

    monkeypatch.setattr(torch_parity, "make_torch", make_eager)
    config = torch_parity.example_shape("modernbert", seed=0)
    torch_parity.assert_is_torchs(config, HeadKind.TOKEN, seed=0, dtype="float32")


def test_products_depend_on_distances_alone():
    heads, width = 3, 8
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.normal(size=heads * width), (9, heads * width)) for _ in range(2))
    with jax.enable_x64(True):
        rotation = make_rotation(np.arange(9) * 1000, width, 100.0, np.dtype("float64"))
        q, k = (
            np.asarray(rotate(jax.numpy.asarray(x), rotation, heads)).reshape(9, heads, width) for x in (q, k)
        )
    scores = np.einsum("ihd,jhd->hij", q, k)
    for distance in range(-8, 9):
        diagonal = scores.diagonal(distance, axis1=1, axis2=2)
        np.testing.assert_allclose(diagonal, np.broadcast_to(diagonal[:, :1], diagonal.shape), rtol=1e-9)
    assert not np.allclose(scores[:, 0, 0], scores[:, 0, 1])


def test_bfloat16_is_turned_in_float32():
    x = jax.random.normal(jax.random.key(0), (5, 16), "bfloat16")
    rotation = make_rotation(np.arange(5), 8, 10.0, jax.numpy.dtype("bfloat16"))
    assert rotation.cos.dtype == np.float32 and rotation.cos.shape == (5, 4)
    exact, turned = rotate(x.astype("float32"), rotation, 2), rotate(x, rotation, 2)
    assert turned.dtype == "bfloat16" and np.array_equal(turned, exact.astype("bfloat16"))
