"""Attention: dense is the equation and stays inside segments; each kernel gives dense's values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.attention import cudnn, dense, in_blocks, obstacle, splash
from jaxft.models.layers import DropoutSeed, keep_mask


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_stays_inside_segments_and_is_finite_on_padding(dtype):
    """Scores far apart, a row that is all padding: outputs and gradients are finite, and nothing leaks."""
    segment_ids = jnp.array([[1, 1, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0]], jnp.int32)
    keys = jax.random.split(jax.random.key(1), 3)
    q, k, v = (100 * jax.random.normal(key, (12, 8), jnp.float32).astype(dtype) for key in keys)

    def out(q, k, v):
        return dense(q, k, v, segment_ids, num_heads=2).astype(jnp.float32)

    def first_segment(q, k, v):
        return out(q, k, v)[:3].sum()

    assert np.isfinite(out(q, k, v)).all()
    gradients = jax.grad(lambda *x: out(*x).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)
    for gradient in jax.grad(first_segment, argnums=(0, 1, 2))(q, k, v):
        assert not np.asarray(gradient, np.float32)[3:].any()
    poisoned = out(q, k.at[3:].set(1e4), v.at[3:].set(1e4))
    np.testing.assert_array_equal(poisoned[:3], out(q, k, v)[:3])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradient_are_those_of_the_equation(causal):
    """Written out plainly, dropout mask included, and differentiated by jax."""
    rows, length, heads, width, rate = 2, 7, 2, 8, 0.3
    seed = DropoutSeed(jnp.uint32(3), jnp.int32(0))
    segment_ids = jnp.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]], jnp.int32)
    q, k, v, pull = (jax.random.normal(key, (14, width)) for key in jax.random.split(jax.random.key(2), 4))
    kept = keep_mask((rows, heads, length, length), rate, seed, 5, rows) / (1 - rate)

    def plain(q, k, v):
        q, k, v = (x.reshape(rows, length, heads, -1) for x in (q, k, v))
        scores = jnp.einsum("rqhd,rkhd->rhqk", q, k) / np.sqrt(width // heads)
        seen = segment_ids[:, :, None] == segment_ids[:, None, :]
        if causal:
            seen &= jnp.arange(length)[:, None] >= jnp.arange(length)
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
        return jnp.einsum("rhqk,rkhd->rqhd", weights * kept, v).reshape(rows * length, width)

    def ours(q, k, v):
        options = {"num_heads": heads, "causal": causal, "rate": rate, "seed": seed, "site": 5}
        return dense(q, k, v, segment_ids, **options)

    (expected, back), (found, our_back) = jax.vjp(plain, q, k, v), jax.vjp(ours, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours_of, theirs_of in zip(our_back(pull), back(pull), strict=True):
        np.testing.assert_allclose(ours_of, theirs_of, atol=1e-5)


@pytest.mark.parametrize(("every", "rows"), [(0, 4), (4, 4), (2, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_rows_in_blocks_are_dense_to_the_last_dropped_weight(every, rows, causal):
    """Also of a microbatch, whose rows are fewer than those that `every` counts."""
    length, block, heads, width = 12, 4, 2, 8
    crossing = [1] * 3 + [2] * 7 + [0] * 2
    inside = [1, 1, 2, 0, 3, 3, 3, 3, 4, 5, 5, 5]
    segment_ids = jnp.array([crossing if every and row % every == 0 else inside for row in range(rows)])
    keys = jax.random.split(jax.random.key(3), 4)
    q, k, v, pull = (jax.random.normal(key, (rows * length, width)) for key in keys)
    pull = jnp.where(segment_ids.reshape(-1, 1) > 0, pull, 0)  # what padding gives means nothing
    seed = DropoutSeed(jnp.uint32(3), jnp.int32(5))
    options = {"num_heads": heads, "causal": causal, "rate": 0.3, "seed": seed, "site": 2}
    expected, back = jax.vjp(lambda *x: dense(*x, segment_ids, **options), q, k, v)
    found, our_back = jax.vjp(
        lambda *x: in_blocks(*x, segment_ids, block=block, every=every, **options), q, k, v
    )
    real = np.asarray(segment_ids).ravel() > 0
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    for ours, theirs in zip(our_back(pull), back(pull), strict=True):
        np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)


# What computes each kernel's call where there is no TPU and no GPU.
STAND_INS = {
    "splash": functools.partial(splash, interpret=True),
    "cudnn": functools.partial(cudnn, implementation="xla"),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", list(STAND_INS))
def test_a_kernel_is_dense_in_value_and_gradient(kernel, causal):
    """Rows of several blocks: segments that end inside and across blocks, padding, a row that is all padding."""
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

    def compute(function):
        out, back = jax.vjp(
            jax.jit(lambda *x: function(*x, segment_ids, num_heads=heads, causal=causal)), q, k, v
        )
        return out, *back(pull)

    for ours, theirs in zip(compute(STAND_INS[kernel]), compute(dense), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize(
    ("kernel", "platform", "calls"),
    [
        # Forward, then the gradients of queries and of keys and values.
        (splash, "tpu", ["tpu_custom_call"] * 3),
        (cudnn, "cuda", ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_and_its_gradient_lower_for_its_platform(kernel, platform, calls, causal, monkeypatch):
    """As far as that goes without the platform: heads of 32, as MiniLM's, and no scores of all heads."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91900)

    def total(*x):
        return kernel(*x, num_heads=12, causal=causal).astype(jnp.float32).sum()

    x = jax.ShapeDtypeStruct((2 * 512, 12 * 32), jnp.bfloat16)
    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(
        x, x, x, jax.ShapeDtypeStruct((2, 512), jnp.int32)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert sorted(re.findall(r"custom_call @(tpu_custom_call|__cudnn[$\w]+)", text)) == calls
    if platform == "cuda":
        assert text.count("mask_type\\22: \\22" + ("CAUSAL" if causal else "NO_MASK")) == 2
    assert "x12x512x512x" not in text


@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        ("splash", {}, None),
        ("splash", {"length": 640, "head_width": 80, "dtype": jnp.float32}, None),
        ("splash", {"length": 500}, "rows of a multiple of 128, not 500"),
        ("cudnn", {}, None),
        ("cudnn", {"length": 511}, "rows of an even length, not 511"),
        ("cudnn", {"dtype": jnp.float32}, "computes in bfloat16, not float32"),
        ("cudnn", {"head_width": 20}, "heads of a multiple of 8 and at most 128, not 20"),
        ("cudnn", {"head_width": 256}, "at most 128, not 256"),
    ],
)
def test_what_a_kernel_cannot_compute_is_said(kernel, change, message):
    shape = {"length": 512, "head_width": 64, "dtype": jnp.dtype(jnp.bfloat16)}
    found = obstacle(kernel, **(shape | change))
    assert found is None if message is None else message in found
