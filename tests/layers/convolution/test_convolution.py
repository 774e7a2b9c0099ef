"""Convolutions have the gradients of XLA's, which on CPU are computed by products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.convolution import kernel_gradient, winograd
from jaxft.layers.convolution.convolution import Convolution
from jaxft.layers.runtime import PLAIN_RUNTIME

IN, OUT = 3, 5


def differentiate(convolve, kernel, x, cotangent):
    """Returns the output, and the gradients of the kernel and of x."""
    y, pull = jax.vjp(convolve, kernel, x)
    return y, *pull(cotangent)


def make_case(size, stride, sides, rows, dtype):
    """Returns a function of a layer's kernel and its input, XLA's convolution, and random arrays for both."""
    layer = Convolution(IN, OUT, size=size, stride=stride, uses=1, runtime=PLAIN_RUNTIME, rngs=nnx.Rngs(0))
    graphdef, parameters = nnx.split(layer)

    def convolve(kernel, x):
        return nnx.remat(Convolution.__call__)(nnx.merge(graphdef, nnx.State({"kernel": kernel})), x)

    def convolve_by_xla(kernel, x):
        padding = [(size // 2, size // 2)] * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    rng = np.random.default_rng(size)
    out_sides = (-(-side // stride) for side in sides)
    shapes = (size, size, IN, OUT), (rows, *sides, IN), (rows, *out_sides, OUT)
    return convolve, convolve_by_xla, [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("sides", [(9, 8), (14, 7), (14, 16), (17, 15)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_gradients_equal_those_of_xla(size, stride, sides, rows, monkeypatch):
    monkeypatch.setattr(kernel_gradient, "GROUP_PLACES", 4 * 72)  # groups of some of six images
    monkeypatch.setattr(winograd, "GROUP_VALUES", 4 * 16 * 16 * IN)
    with jax.enable_x64(True):
        convolve, convolve_by_xla, arrays = make_case(size, stride, sides, rows, jnp.float64)
        result = jax.jit(lambda *arrays: differentiate(convolve, *arrays))(*arrays)
        for ours, expected in zip(result, differentiate(convolve_by_xla, *arrays), strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10 * abs(expected).max())


def test_gradients_of_bfloat16_are_summed_in_float32():
    convolve, convolve_by_xla, arrays = make_case(3, 1, (32, 32), 8, jnp.bfloat16)
    arrays[1:] = map(abs, arrays[1:])  # sums that bfloat16 would round again and again
    result = jax.jit(lambda *arrays: differentiate(convolve, *arrays))(*arrays)
    wide = [array.astype(jnp.float32) for array in arrays]
    for ours, expected in zip(result, differentiate(convolve_by_xla, *wide), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize(("side", "products"), [(8, 1), (16, 3)])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_convolve_and_cpus_multiply(platform, side, products):
    convolve, convolve_by_xla, arrays = make_case(3, 1, (side, side), 64, jnp.float32)
    lowered = [
        jax.jit(lambda *arrays, function=function: differentiate(function, *arrays))
        .trace(*arrays)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for function in (convolve, convolve_by_xla)
    ]
    ours, theirs = (text.count("stablehlo.convolution") for text in lowered)
    assert (ours, theirs) == (3 - products if platform == "cpu" else 3, 3)
    assert ("stablehlo.while" in lowered[0]) == (platform == "cpu")
