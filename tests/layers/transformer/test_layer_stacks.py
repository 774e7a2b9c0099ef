"""Layers of several kinds are scanned by periods, and compute what they compute one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.dropout import SITES_PER_LAYER
from jaxft.layers.linear import Linear
from jaxft.layers.output_positions import gather, locate
from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.layer_stacks import find_periods, make_stack, run_layers


@pytest.mark.parametrize(
    ("kinds", "pieces"),
    [
        ("aaaa", [("a", 4)]),
        ("a", [("a", 1)]),
        ("", []),
        ("abcbcbc", [("a", 1), ("bc", 3)]),  # as a first layer without a norm, then two kinds in turn
        ("abbcbbcbbc", [("a", 1), ("bbc", 3)]),
        ("abbcbbcbb", [("a", 1), ("bbc", 2), ("bb", 1)]),
        ("abbb", [("a", 1), ("b", 3)]),
        ("abcd", [("abc", 1), ("d", 1)]),
        ("aba", [("ab", 1), ("a", 1)]),
    ],
)
def test_the_shortest_period_is_found(kinds, pieces):
    assert find_periods(kinds, unroll=False) == pieces
    assert "".join(piece * count for piece, count in pieces) == kinds
    if len(set(kinds)) > 1:
        assert find_periods(kinds, unroll=True) == [(kinds, 1)]


@pytest.mark.parametrize("prunes", [False, True])
def test_layers_of_several_kinds_are_one_after_the_other(prunes):
    """With the same results in loops, unrolled and with remat; loops hold each layer of a period once."""
    kinds, rows, length, size = "abbcbbcbbc", 2, 3, 4
    stack = make_stack(
        lambda rngs: Linear(size, size, initializer_range=0.5, rngs=rngs), len(kinds), nnx.Rngs(0)
    )
    graph, parameters = nnx.split(stack)
    positions = locate(jnp.array([[4, 1]]), rows, length) if prunes else None
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows * length, size)), jnp.float32)

    def apply(layer, x, index, site, output_positions, scale):
        x = gather(x, output_positions)
        return jnp.tanh(layer(x) * scale + x + 0.1 * index + 0.01 * site)

    functions = {kind: functools.partial(apply, scale=ord(kind) - ord("a") + 1) for kind in kinds}

    def run(parameters, x, **options):
        layers = nnx.merge(graph, parameters)
        y = run_layers(
            layers,
            x,
            [functions[kind] for kind in kinds],
            Runtime(**options),
            positions,
            rows=rows,
            dropout=None,
        )
        return jnp.sin(y).sum(), y

    def run_one_by_one(parameters, x):
        for index, kind in enumerate(kinds):
            layer = nnx.merge(graph, jax.tree.map(lambda leaf, index=index: leaf[index], parameters))
            last = positions if index == len(kinds) - 1 else None
            x = functions[kind](layer, x, index, 1 + SITES_PER_LAYER * index, last)
        return jnp.sin(x).sum(), x

    def differentiate(function):
        return jax.jit(jax.grad(function, argnums=(0, 1), has_aux=True))(parameters, x)

    expected = differentiate(run_one_by_one)
    for options in ({}, {"remat": "full"}, {"unroll": True}, {"unroll": True, "remat": "dots"}):
        actual = differentiate(functools.partial(run, **options))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)
    products = str(jax.make_jaxpr(run)(parameters, x)).count("dot_general")
    assert products == (1 + 3 + 2 + 1 if prunes else 1 + 3)  # before the loop, in it, after it, and the last
