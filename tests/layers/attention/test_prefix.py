"""Tests that attention with a prefix is that of rows with more keys, which all segments see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.data.batching.batch import Blocks
from jaxft.layers.attention import flops
from jaxft.layers.attention.interface import Prefix, RelativeTerms, Visibility, layer_prefix
from jaxft.layers.attention.over_mesh import make_attention
from jaxft.layers.dropout import DropoutSeed, draw_keep_mask

HEADS, WIDTH, COUNT, RATE = 2, 3, 5, 0.3
IDS = np.array([[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 2, 2, 3, 3, 3, 0]])
DROPOUT = {"rate": RATE, "seed": DropoutSeed(jnp.uint32(3), jnp.int32(5)), "site": 7}


def attend_by_the_equation(q, k, v, prefix, bias, visibility):
    """Computes attention over the keys of a row and those of the prefix, with dropout of all weights."""
    rows, length = IDS.shape
    q, k, v = (x.reshape(rows, length, HEADS, WIDTH).swapaxes(1, 2) for x in (q, k, v))
    keys, values = (jnp.tile(x.reshape(COUNT, HEADS, WIDTH).swapaxes(0, 1), (rows, 1, 1, 1)) for x in prefix)
    distance = np.arange(length) - np.arange(length)[:, None]
    seen = IDS[:, None, :, None] == IDS[:, None, None]
    if visibility.causal:
        seen = seen & (distance <= 0)
    if visibility.window is not None:
        seen = seen & (abs(distance) <= visibility.window)
    to_row = jnp.where(seen, q @ k.swapaxes(2, 3) / WIDTH**0.5 + bias[:, distance + length - 1], -jnp.inf)
    scores = jnp.concatenate([to_row, q @ keys.swapaxes(2, 3) / WIDTH**0.5], axis=-1)
    kept = draw_keep_mask(scores.shape, RATE, DROPOUT["seed"], DROPOUT["site"], rows) / (1 - RATE)
    mixed = (jax.nn.softmax(scores) * kept) @ jnp.concatenate([v, values], axis=2)
    return mixed.swapaxes(1, 2).reshape(rows * length, -1)


@pytest.mark.parametrize(
    ("name", "blocks", "visibility"),
    [
        ("dense", None, Visibility(causal=True)),
        ("dense", Blocks(4, 2), Visibility()),  # segments of the first row cross blocks
        ("chunked", None, Visibility(window=1)),
        ("flash", None, Visibility()),  # which computes no prefix
    ],
)
def test_a_prefix_is_seen_by_all(monkeypatch, name, blocks, visibility):
    """Compares values and gradients in float64."""
    monkeypatch.setattr(flops, "CHUNK", 4)
    monkeypatch.setattr(flops, "MIN_CHUNK", 3)
    generator, size = np.random.default_rng(0), HEADS * WIDTH
    shapes = [*[(IDS.size, size)] * 3, (COUNT, size), (COUNT, size), (HEADS, 2 * IDS.shape[1] - 1)]
    mesh = (
        None
        if name != "flash"
        else jax.sharding.Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    )
    attend = make_attention(name, mesh, blocks)

    def compute(q, k, v, keys, values, bias):
        with layer_prefix(Prefix(keys, values)):
            relative = RelativeTerms(bias=bias)
            ids = jnp.asarray(IDS, jnp.int32)
            options = {"num_heads": HEADS, "visibility": visibility, "relative": relative}
            return attend(q, k, v, ids, **options, **DROPOUT)

    def expect(q, k, v, keys, values, bias):
        return attend_by_the_equation(q, k, v, (keys, values), bias, visibility)

    def differentiate(function, *arrays):
        out, back = jax.vjp(function, *arrays[:-1])
        return out, *back(arrays[-1])

    with jax.enable_x64(True):
        arrays = [jnp.asarray(2 * generator.normal(size=shape)) for shape in [*shapes, shapes[0]]]
        ours, theirs = (
            jax.jit(functools.partial(differentiate, function))(*arrays) for function in (compute, expect)
        )
        for actual, expected in zip(ours, theirs, strict=True):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
