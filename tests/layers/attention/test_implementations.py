"""Tests that implementations in XLA's operations are attention's equation, with all that may be asked of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxft.data.batching.batch import Blocks
from jaxft.layers.attention import flops, over_mesh
from jaxft.layers.attention.chunked import chunked_attention
from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention.interface import RelativeTerms, Visibility
from jaxft.layers.dropout import DropoutSeed, draw_keep_mask

SEED = {"seed": DropoutSeed(jnp.uint32(3), jnp.int32(5)), "site": 7}


def attend_by_the_equation(q, k, v, pull, relative, ids, visibility, kept):
    """Returns output and gradients in numpy, for heads `[R, H, L, d]` and a mask of dropout, already divided."""
    length, width = q.shape[2:]
    distance = np.arange(length) - np.arange(length)[:, None]  # key - query
    at = distance + length - 1
    scale = 1 / np.sqrt(width * (1 + (relative.keys is not None) + (relative.queries is not None)))
    # A query's keys, and a key's queries, differ with the distance: [H, query, key, d].
    keys_of, queries_of = (
        np.zeros((q.shape[1], length, length, width)) if x is None else np.swapaxes(x, 0, 1)[:, at]
        for x in (relative.keys, relative.queries)
    )
    scores = q @ k.swapaxes(2, 3)
    scores = scores + np.einsum("rhqd,hqkd->rhqk", q, keys_of) + np.einsum("rhkd,hqkd->rhqk", k, queries_of)
    scores = scores * scale + (0 if relative.bias is None else relative.bias[:, at])
    seen = ids[:, None, :, None] == ids[:, None, None]
    if visibility.causal:
        seen = seen & (distance <= 0)
    if visibility.window is not None:
        seen = seen & (abs(distance) <= visibility.window)
    powers = np.where(seen, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    weights = powers / powers.sum(axis=-1, keepdims=True)
    d_weights = kept * (pull @ v.swapaxes(2, 3))
    d_scores = weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True))
    d_products = d_scores * scale
    d_q = d_products @ k + np.einsum("rhqk,hqkd->rhqd", d_products, keys_of)
    d_k = d_products.swapaxes(2, 3) @ q + np.einsum("rhqk,hqkd->rhkd", d_products, queries_of)
    by_distance = np.arange(2 * length - 1)[:, None, None] == at
    d_bias = np.einsum("rhqk,tqk->ht", d_scores, by_distance)
    d_keys = np.einsum("rhqk,rhqd,tqk->thd", d_products, q, by_distance)
    d_queries = np.einsum("rhqk,rhkd,tqk->thd", d_products, k, by_distance)
    d_terms = [None if x is None else d for x, d in zip(relative, (d_bias, d_keys, d_queries), strict=True)]
    weights = weights * kept
    return weights @ v, d_q, d_k, weights.swapaxes(2, 3) @ pull, RelativeTerms(*d_terms)


@st.composite
def cases(draw):
    """Draws rows with segments shorter and longer than windows and chunks, which have 3 or 4 slots."""
    length = draw(st.integers(1, 14))
    rows = [
        sorted(draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), key=lambda i: i or 4)
        for _ in range(draw(st.integers(1, 2)))
    ]
    return {
        "ids": rows,
        "heads": draw(st.integers(1, 2)),
        "width": draw(st.integers(1, 3)),
        "visibility": Visibility(draw(st.booleans()), draw(st.none() | st.integers(0, 6))),
        "terms": draw(st.sets(st.sampled_from(RelativeTerms._fields))),
        "rate": draw(st.sampled_from([0.0, 0.3])),
        "first_head": draw(st.integers(0, 2)),
    }


IMPLEMENTATIONS = {"dense": dense_attention, "chunked": chunked_attention}
LONG, PACKED = [[1] * 11], [[1] * 2 + [2] * 6 + [0] * 2, [3] * 10]
ALL_TERMS = set(RelativeTerms._fields)


def check(name, ids, heads, width, visibility, terms, rate, first_head):
    """Compares values and gradients in float64, padding included."""
    ids, generator = np.asarray(ids), np.random.default_rng(0)
    rows, length = ids.shape
    shape = (rows, heads, length, width)
    q, k, v, pull = (3 * generator.normal(size=shape) for _ in range(4))
    distances = 2 * length - 1
    bias, *products = (
        generator.normal(size=size) for size in ((heads, distances), *[(distances, heads, width)] * 2)
    )
    all_terms = dict(zip(RelativeTerms._fields, (bias, *products), strict=True))
    relative = RelativeTerms(**{field: x for field, x in all_terms.items() if field in terms})
    all_heads = first_head + heads
    kept = draw_keep_mask((rows, all_heads, length, length), rate, *SEED.values(), rows)
    kept = np.asarray(kept)[:, first_head:] / (1 - rate)
    expected = attend_by_the_equation(q, k, v, pull, relative, ids, visibility, kept)

    def flat(x):
        return jnp.asarray(x).swapaxes(1, 2).reshape(rows * length, heads * width)

    @jax.jit
    def compute(q, k, v, pull, relative):
        def attend(q, k, v, relative):
            options = {"num_heads": heads, "visibility": visibility, "relative": relative}
            options |= {"rate": rate, "first_head": first_head, **SEED}
            return IMPLEMENTATIONS[name](q, k, v, jnp.asarray(ids, jnp.int32), **options)

        out, back = jax.vjp(attend, q, k, v, relative)
        return out, *back(pull)

    def as_heads(x):
        return np.asarray(x).reshape(rows, length, heads, width).swapaxes(1, 2)

    with jax.enable_x64(True):
        flat_terms = RelativeTerms(
            relative.bias, *(None if x is None else x.reshape(distances, -1) for x in relative[1:])
        )
        *actual, d_terms = compute(*map(flat, (q, k, v, pull)), jax.tree.map(jnp.asarray, flat_terms))
        assert all(x.dtype == np.float64 for x in actual)
    for ours, theirs in zip(map(as_heads, actual), expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs.reshape(ours.shape), rtol=1e-9, atol=1e-9
        ),
        d_terms,
        expected[-1],
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(flops, "CHUNK", 4)
    monkeypatch.setattr(flops, "MIN_CHUNK", 3)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("ids", "visibility", "terms", "rate"),
    [
        (LONG, Visibility(), {"keys"}, 0.0),
        (PACKED, Visibility(causal=True), set(), 0.3),
        (PACKED, Visibility(window=1), ALL_TERMS, 0.3),  # a chunk of queries sees one of keys
        (LONG, Visibility(window=4), {"bias", "queries"}, 0.0),  # and several
    ],
)
def test_an_implementation_is_the_equation(name, ids, visibility, terms, rate):
    check(name, ids, heads=2, width=2, visibility=visibility, terms=terms, rate=rate, first_head=1)


@pytest.mark.sweep
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@given(case=cases())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_implementation_is_the_equation_whatever_is_asked(name, case):
    check(name, **case)


@pytest.mark.parametrize("ids", [LONG, pytest.param(PACKED, marks=pytest.mark.sweep)])
def test_implementations_agree_in_bfloat16(ids):
    """Has a single row too, whose products XLA:CPU could turn into some that it cannot run."""
    ids, heads, width = jnp.asarray(ids, jnp.int32), 2, 4
    slots, distances = ids.size, 2 * ids.shape[1] - 1
    shapes = [*[(slots, heads * width)] * 4, (heads, distances), *[(distances, heads * width)] * 2]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [jax.random.normal(*pair, jnp.bfloat16) for pair in zip(keys, shapes, strict=True)]
    q, k, v, pull, bias, *products = arrays
    relative = RelativeTerms(bias.astype(jnp.float32), *products)

    @functools.partial(jax.jit, static_argnums=0)
    def compute(name):
        def attend(*x):
            options = {"num_heads": heads, "visibility": Visibility(window=4), "relative": x[3]}
            return IMPLEMENTATIONS[name](*x[:3], ids, **options, rate=0.3, **SEED)

        out, back = jax.vjp(attend, q, k, v, relative)
        return out, *back(pull)

    for ours, theirs in zip(*(jax.tree.leaves(compute(name)) for name in IMPLEMENTATIONS), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


def test_short_blocks_are_dense_and_long_ones_chunked(monkeypatch):
    """Chunks have 4 slots."""

    def called(name):
        return lambda *arrays, **options: (name, options.get("block_length"))

    for name in IMPLEMENTATIONS:
        monkeypatch.setitem(over_mesh.IMPLEMENTATIONS, name, called(name))
    monkeypatch.setattr(over_mesh, "chunked_attention", called("chunked"))
    monkeypatch.setattr(over_mesh, "dense_in_blocks", called("blocks"))
    monkeypatch.setattr(over_mesh, "CHUNK", 4)
    x, ids = jnp.zeros((16, 2)), jnp.ones((1, 16), jnp.int32)
    for name, blocks, expected in [
        ("chunked", None, ("chunked", None)),
        ("chunked", Blocks(4, 0), ("blocks", 4)),
        ("chunked", Blocks(8, 0), ("chunked", None)),
        ("chunked", Blocks(4, 2), ("chunked", None)),
        ("dense", Blocks(8, 2), ("blocks", 8)),
    ]:
        assert over_mesh.make_attention(name, None, blocks)(x, x, x, ids, num_heads=1) == expected
    in_windows = over_mesh.make_attention("dense", None, windowed_name="chunked")
    options = {"num_heads": 1, "visibility": Visibility(window=2)}
    assert in_windows(x, x, x, ids, **options)[0] == "chunked"
    assert in_windows(x, x, x, ids, num_heads=1)[0] == "dense"
