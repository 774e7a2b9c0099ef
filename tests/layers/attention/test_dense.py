"""Tests that dense attention is the equation, within segments, and that each kernel has its values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jaxft.layers.attention.dense import dense_attention, dense_in_blocks
from jaxft.layers.attention.flash import _Grid, flash_attention
from jaxft.layers.attention.interface import Feature, RelativeTerms, Visibility
from jaxft.layers.attention.limits import find_obstacle
from jaxft.layers.attention.splash import splash_attention
from jaxft.layers.dropout import DropoutSeed


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_stays_inside_segments_and_is_finite_on_padding(dtype):
    """Has scores that are far from each other and a row that is all padding."""
    segment_ids = jnp.array([[1, 1, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0]], jnp.int32)
    keys = jax.random.split(jax.random.key(1), 3)
    q, k, v = (100 * jax.random.normal(key, (12, 8), jnp.float32).astype(dtype) for key in keys)

    def out(q, k, v):
        return dense_attention(q, k, v, segment_ids, num_heads=2).astype(jnp.float32)

    def first_segment(q, k, v):
        return out(q, k, v)[:3].sum()

    assert np.isfinite(out(q, k, v)).all()
    gradients = jax.grad(lambda *x: out(*x).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)
    for gradient in jax.grad(first_segment, argnums=(0, 1, 2))(q, k, v):
        assert not np.asarray(gradient, np.float32)[3:].any()
    poisoned = out(q, k.at[3:].set(1e4), v.at[3:].set(1e4))
    np.testing.assert_array_equal(poisoned[:3], out(q, k, v)[:3])


@pytest.mark.parametrize(("period", "rows"), [(0, 4), (4, 4), (2, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("visibility", [Visibility(window=2), Visibility(causal=True)])
def test_rows_in_blocks_are_dense_to_the_last_dropped_weight(period, rows, visibility):
    """Includes microbatches, of fewer rows than the period, and all relative terms."""
    length, block, heads, width = 12, 4, 2, 8
    crossing = [1] * 3 + [2] * 7 + [0] * 2
    inside = [1, 1, 2, 0, 3, 3, 3, 3, 4, 5, 5, 5]
    segment_ids = jnp.array([crossing if period and row % period == 0 else inside for row in range(rows)])
    keys = jax.random.split(jax.random.key(3), 4)
    q, k, v, pull = (jax.random.normal(key, (rows * length, width)) for key in keys)
    pull = jnp.where(segment_ids.reshape(-1, 1) > 0, pull, 0)  # the output of padding means nothing
    seed = DropoutSeed(jnp.uint32(3), jnp.int32(5))
    shapes = RelativeTerms((heads, 2 * length - 1), *[(2 * length - 1, width)] * 2)
    keys = jax.random.split(jax.random.key(4), 3)
    relative = RelativeTerms(*(jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)))

    @functools.partial(jax.jit, static_argnums=0)
    def compute(attention, *arrays):
        def attend(q, k, v, relative):
            options = {"num_heads": heads, "visibility": visibility, "rate": 0.3, "seed": seed, "site": 2}
            return attention(q, k, v, segment_ids, relative=relative, **options)

        out, back = jax.vjp(attend, *arrays)
        return out, *back(pull)

    in_blocks = functools.partial(dense_in_blocks, block_length=block, whole_row_period=period)
    *expected, term_gradients = compute(dense_attention, q, k, v, relative)
    *actual, our_term_gradients = compute(in_blocks, q, k, v, relative)
    real = np.asarray(segment_ids).ravel() > 0
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)
    for ours, theirs in zip(our_term_gradients, term_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_bias_takes_the_memory_of_one_row_of_scores():
    """Measures layers in a loop, each of which could keep what it adds to scores."""
    rows, length, heads, layers = 64, 64, 2, 4
    x = jax.ShapeDtypeStruct((rows * length, 16), jnp.float32)
    bias = jax.ShapeDtypeStruct((heads, 2 * length - 1), jnp.float32)
    segment_ids = jnp.ones((rows, length), jnp.int32)

    def loss(x, bias):
        def layer(x, _):
            relative = RelativeTerms(bias)
            return x + dense_attention(x, x, x, segment_ids, num_heads=heads, relative=relative), None

        return jax.lax.scan(layer, x, None, length=layers)[0].sum()

    def measure(bias):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, bias).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert measure(bias) - measure(None) < 3 * 4 * heads * length**2


# The kernels for a machine without TPU or GPU.
STAND_INS = {
    "splash": functools.partial(splash_attention, interpret=True),
    "flash": functools.partial(flash_attention, interpret=True),
}


@pytest.mark.parametrize(
    ("kernel", "rate", "visibility"),
    [
        ("splash", 0.0, Visibility()),
        pytest.param("splash", 0.0, Visibility(causal=True), marks=pytest.mark.sweep),
        ("splash", 0.0, Visibility(window=90)),
        ("splash", 0.0, Visibility(causal=True, window=20)),
        pytest.param("flash", 0.0, Visibility(causal=True), marks=pytest.mark.sweep),
        ("flash", 0.0, Visibility(window=90)),
        ("flash", 0.3, Visibility()),
        ("flash", 0.3, Visibility(causal=True, window=20)),
    ],
)
def test_a_kernel_is_dense_in_value_and_gradient(kernel, rate, visibility):
    """Has rows of several blocks: segments end inside blocks and cross them, and a row is all padding.

    Kernels drop the weights that dense attention drops, also in rows that are not the batch's first.
    """
    rows, length, heads, width = 3, 384, 2, 32
    place = np.arange(length)
    segment_ids = np.stack(
        [
            np.select([place < 100, place < 300, place < 350], [1, 2, 3]),
            np.ones(length),
            np.zeros(length),
        ]
    )
    segment_ids = jnp.asarray(segment_ids, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, pull = (2 * jax.random.normal(key, (rows * length, heads * width)) for key in keys)
    options, dropout = (
        {"num_heads": heads, "visibility": visibility},
        {"seed": DropoutSeed(jnp.uint32(3), jnp.int32(5)), "site": 7, "rate": rate},
    )

    def compute(function):
        out, back = jax.vjp(jax.jit(function), q, k, v)
        return out, *back(pull)

    expected = compute(lambda *x: dense_attention(*x, segment_ids, **options, **dropout))
    actual = compute(lambda *x: STAND_INS[kernel](*x, segment_ids, **options, **dropout))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "platform"), [(splash_attention, "tpu"), (flash_attention, "cuda")])
@pytest.mark.parametrize("visibility", [Visibility(), Visibility(causal=True), Visibility(window=64)])
def test_a_kernel_and_its_gradient_lower_for_its_platform(kernel, platform, visibility):
    """Lowers heads of 32, as MiniLM's, without the platform, and holds no scores of all heads."""
    dropout = {"rate": 0.1, "seed": DropoutSeed(jnp.uint32(3), jnp.int32(5))} if platform == "cuda" else {}

    def total(*x):
        return kernel(*x, num_heads=12, visibility=visibility, **dropout).astype(jnp.float32).sum()

    x = jax.ShapeDtypeStruct((2 * 512, 12 * 32), jnp.bfloat16)
    segment_ids = jax.ShapeDtypeStruct((2, 512), jnp.int32)
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu") if platform == "cuda" else None
    with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(x, x, x, segment_ids)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Forward, then the gradients of queries and of keys and values.
    assert len(re.findall(r"custom_call @(tpu_custom_call|__gpu\$xla\.gpu\.triton)", text)) == 3
    assert "x12x512x512x" not in text


def test_flash_sees_no_block_that_no_segment_is_common_to():
    """Counts the padding at a row's end as one more segment, after all others."""
    place = np.arange(256)
    ids = np.stack([np.select([place < 64, place < 70, place < 130], [1, 2, 3]), np.ones(256), np.zeros(256)])
    ids = jnp.asarray(ids, jnp.int32)
    x = jnp.zeros((3 * 256, 32))

    def ranges(over_keys=True, **visibility):
        grid = _Grid(x, ids, 1, Visibility(**visibility), 0.0, False)
        return grid.block_ranges(over_keys=over_keys).tolist()

    assert ranges() == [[[0, 1], [1, 3], [1, 4], [2, 4]], [[0, 4]] * 4, [[0, 4]] * 4]
    causal = ranges(causal=True)
    assert causal == [[[0, 1], [1, 2], [1, 3], [2, 4]], *[[[0, i + 1] for i in range(4)]] * 2]
    queries = ranges(causal=True, over_keys=False)
    assert queries == [[[0, 1], [1, 3], [2, 4], [3, 4]], *[[[i, 4] for i in range(4)]] * 2]
    neighbours = [[0, 2], [0, 3], [1, 4], [2, 4]]
    assert ranges(window=64) == [[[0, 1], [1, 3], [1, 4], [2, 4]], neighbours, neighbours]
    assert ranges(window=64, causal=True)[1] == [[0, 1], [0, 2], [1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        ("splash", {}, None),
        ("splash", {"length": 640, "head_width": 80, "dtype": jnp.float32}, None),
        ("splash", {"length": 500}, "rows of a multiple of 128, not 500"),
        ("flash", {}, None),
        ("flash", {"length": 520}, "rows of a multiple of 64, not 520"),
        ("flash", {"features": {Feature.RELATIVE_BIAS}}, "adds no bias to scores, which this model needs"),
        (
            "splash",
            {"features": {Feature.RELATIVE_PRODUCTS}},
            "adds no products with positions to scores, which",
        ),
        ("flash", {"features": {Feature.WINDOW, Feature.CAUSAL}}, None),
        ("chunked", {"features": set(Feature), "length": 77, "dtype": jnp.float32}, None),
        ("flash", {"dtype": jnp.float32}, "computes in bfloat16, not float32"),
        ("flash", {"head_width": 80}, "heads of 16, 32, 64 or 128, not 80"),
    ],
)
def test_a_kernel_names_its_obstacle(kernel, change, message):
    shape = {"length": 512, "head_width": 64, "dtype": jnp.bfloat16, "features": set()}
    obstacle = find_obstacle(kernel, **(shape | change))
    assert obstacle is None if message is None else message in obstacle
