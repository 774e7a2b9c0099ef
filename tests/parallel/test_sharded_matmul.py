"""Products with kernels split over devices equal products with entire kernels, in value and gradients."""

import pytest

SCRIPT = """
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.parallel.sharded_matmul import (
    ActivationLayout, CompressedKernel, gather_shards, scatter_sum, sharded_matmul
)
from jaxft.parallel import sharded_matmul as module

random, comparisons = np.random.default_rng(0), []
SHAPES = (48, 24, 40, "float32"), (48, 24, 40, "bfloat16"), (48, 23, 41, "float32"), (48, 24, 41, "float32")
SHAPES += ((48, 24, 40, "float32 over int8"),)


@functools.partial(jax.jit, static_argnums=(3, 4))  # without a layout compiled once for each shape
def results(x, kernel, target, layout, fsdp_dimension, other=None):
    is_frozen = isinstance(kernel, CompressedKernel)

    def loss(x, kernel, other):
        y, z = sharded_matmul(x, [kernel, other], layout, fsdp_dimension)
        return jnp.sum(((y + 2 * z) * target).astype(jnp.float32)), (y, z)

    differentiate = jax.value_and_grad(loss, argnums=(0,) if is_frozen else (0, 1, 2), has_aux=True)
    other = jax.tree.map(lambda array: array[::-1], kernel) if other is None else other
    (_, products), gradients = differentiate(x, kernel, other)
    return *products, *gradients


MESHES = (1, 8, 1), (2, 2, 2), (1, 3, 1)
if sys.argv[2] == "sweep":
    MESHES += (2, 4, 1), (1, 4, 2), (8, 1, 1)
for one_stage in (8, 1):
    module.ONE_STAGE = {"cpu": one_stage}
    for sizes in MESHES:
        devices = np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes)
        place = NamedSharding(Mesh(devices, ("data", "fsdp", "tensor")), PartitionSpec(("data", "fsdp")))
        layout = ActivationLayout(place, regathers=one_stage == 1)
        for count, inputs, outputs, dtype in SHAPES:
            x, kernel, target = (
                # Small whole numbers, whose products and sums both types hold exactly.
                random.integers(-1, 2, shape).astype(np.float32)
                for shape in ((count, inputs), (inputs, outputs), (count, outputs))
            )
            x, target = (jnp.asarray(array, dtype.split()[0]) for array in (x, target))
            if dtype.endswith("int8"):
                scale = 2.0 ** random.integers(-1, 2, outputs).astype(np.float32)
                pair = jnp.asarray(kernel * scale), jnp.asarray(kernel[::-1] * scale[::-1])
                expected = results(x, pair[0], target, None, 0, pair[1])
                kernel = CompressedKernel(jnp.asarray(kernel, jnp.int8), jnp.asarray(scale))
            else:
                kernel = jnp.asarray(kernel, dtype)
                expected = results(x, kernel, target, None, 0)
            for dimension in (0, 1):
                pairs = zip(results(x, kernel, target, layout, dimension), expected, strict=False)
                same = [a.dtype == b.dtype and bool((np.asarray(a) == np.asarray(b)).all()) for a, b in pairs]
                comparisons.append([one_stage, sizes, count, dtype, dimension, same])


def order(ways, one_stage):
    module.ONE_STAGE = {"cpu": one_stage}
    mesh = Mesh(np.asarray(jax.devices()[:ways]), ("fsdp",))
    spec = PartitionSpec("fsdp")

    def both(shard):
        array = gather_shards(shard, "fsdp", mesh)
        return array[None], scatter_sum(array * (1 + jax.lax.axis_index("fsdp")), "fsdp", mesh)

    on_devices = jax.shard_map(both, mesh=mesh, in_specs=spec, out_specs=(spec, spec), check_vma=False)
    text = jax.jit(on_devices).lower(jax.ShapeDtypeStruct((2 * ways,), jnp.int32)).as_text()
    arrays, sums = on_devices(jnp.arange(2 * ways))
    return [arrays.tolist(), sums.tolist(), text.count("stablehlo.all_gather")]


orders = [[ways, one_stage, *order(ways, one_stage)] for ways in (2, 4, 6, 7, 8) for one_stage in (8, 1)]
print(json.dumps([comparisons, orders]))
"""


@pytest.fixture(scope="module", params=["short", pytest.param("sweep", marks=pytest.mark.sweep)])
def script_output(on_eight_devices, request):
    """The sweep has twice as many meshes."""
    comparisons, orders = on_eight_devices(SCRIPT, request.param)
    assert len(comparisons) == 2 * {"short": 3, "sweep": 6}[request.param] * 5 * 2
    return comparisons, orders


def test_a_product_is_the_same_over_any_mesh(script_output):
    """Compares to the bit, in one stage and in two, by rows and by columns of the kernel; also if nothing divides.

    Two products, and the gradients of x and of both kernels, or of x alone if the kernels are int8.
    """
    comparisons, _ = script_output
    for *case, same in comparisons:
        assert same == [True] * (3 if "int8" in case[3] else 5), case


def test_stages_keep_the_devices_order(script_output):
    """A gather concatenates shards; a scatter gives each device its shard of the sum. Two stages, if any."""
    _, orders = script_output
    for ways, one_stage, gathered, sums, gathers in orders:
        everything = list(range(2 * ways))
        assert gathered == [everything] * ways
        assert sums == [n * ways * (ways + 1) // 2 for n in everything]
        assert gathers == (2 if one_stage == 1 and ways in (4, 6, 8) else 1)
