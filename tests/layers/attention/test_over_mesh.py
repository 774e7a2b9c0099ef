"""Tests that attention over a mesh computes, and trains, as dense attention does on one device."""

import pytest

SCRIPT = """
import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, sys.argv[1] + "/training")
import test_step

from jaxft.data.batching.batch import Blocks
from jaxft.layers.runtime import Runtime
from jaxft.training.network import make_network
from jaxft.training.trainer import make_trainer
from jaxft.parallel.mesh import place_batch, AXES, BATCH_SPEC
from jaxft.layers.attention.over_mesh import make_attention
from jaxft.layers.attention.splash import splash_attention
from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention import over_mesh
from jaxft.layers.attention.interface import Feature, RelativeTerms, Visibility
from jaxft.layers.attention.flash import flash_attention
from jaxft.layers.dropout import DropoutSeed

over_mesh.IMPLEMENTATIONS["splash"] = functools.partial(splash_attention, interpret=True)
# In float32 too, in which it is not used.
over_mesh.IMPLEMENTATIONS["flash"] = functools.partial(flash_attention, interpret=True)
over_mesh.find_obstacle = lambda name, *, length, features, **_: length < 128 or (
    name == "flash" and Feature.RELATIVE_BIAS in features
)
rows, length, heads, width = 4, 128, 2, 8
CAUSAL = Visibility(causal=True)


def mesh_of(*sizes):
    return jax.sharding.Mesh(np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes), AXES)


def value_and_gradients(function, arrays, segment_ids):
    out, back = jax.vjp(lambda q, k, v: function(q, k, v, segment_ids, num_heads=heads, visibility=CAUSAL), *arrays[:3])
    return out, *back(arrays[3])


mesh = mesh_of(2, 2, 2)
arrays = [jax.random.normal(key, (rows * length, heads * width)) for key in jax.random.split(jax.random.key(0), 4)]
segment_ids = jnp.repeat(jnp.array([[1, 2, 2, 0], [1, 1, 1, 1], [1, 2, 3, 4], [0, 0, 0, 0]]), length // 4, axis=1)
expected = jax.jit(functools.partial(value_and_gradients, dense_attention))(arrays, segment_ids)
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*BATCH_SPEC, "tensor"))
over_mesh_function = jax.jit(functools.partial(value_and_gradients, make_attention("splash", mesh)))
actual = over_mesh_function(jax.device_put(arrays, place), place_batch(segment_ids, mesh))
assert all(x.sharding.is_equivalent_to(place, 2) for x in actual)
errors = [float(abs(a - b).max()) for a, b in zip(actual, expected, strict=True)]

# Dense, dropout and a bias too: each fourth row's segments cross blocks of 64, those of others don't.
ids = jnp.repeat(jnp.array([[1, 1, 1, 2], [1, 2, 3, 3], [1, 2, 0, 0], [1, 2, 3, 4]] * 2), length // 4, axis=1)
ids = ids.at[::4, 60:96].set(2).at[::4, 96:].set(3)
arrays = [jax.random.normal(key, (8 * length, heads * width)) for key in jax.random.split(jax.random.key(1), 4)]
arrays[3] = jnp.where(ids.reshape(-1, 1) > 0, arrays[3], 0)
dropout = {"rate": 0.3, "seed": DropoutSeed(jnp.uint32(3), jnp.int32(5)), "site": 2}
terms = jax.random.split(jax.random.key(2), 3)
terms = RelativeTerms(
    jax.random.normal(terms[0], (heads, 2 * length - 1)),
    *(jax.random.normal(key, (2 * length - 1, heads * width)) for key in terms[1:]),
)


def with_terms(function, arrays, terms, segment_ids):
    options = {"num_heads": heads, "visibility": Visibility(causal=True, window=40), **dropout}
    attend = lambda q, k, v, terms: function(q, k, v, segment_ids, relative=terms, **options)
    out, back = jax.vjp(attend, *arrays[:3], terms)
    return out, *back(arrays[3])


*expected, term_gradients = jax.jit(functools.partial(with_terms, dense_attention))(arrays, terms, ids)
# What a kernel can't compute, as a bias, is dense attention's.
blocks, is_sweep = Blocks(64, 4), sys.argv[2] == "sweep"
cases = [("chunked", (2, 2, 2), blocks), ("dense", (1, 2, 3), blocks), ("flash", (4, 1, 1), None)]
if is_sweep:
    cases += [("chunked", (2, 2, 2), None), ("dense", (1, 2, 3), None), ("flash", (4, 1, 1), blocks)]
    cases += [("dense", (1, 8, 1), None), ("dense", (1, 8, 1), blocks)]
for name, sizes, blocks in cases:
    function = make_attention(name, mesh_of(*sizes), blocks)
    *actual, our_term_gradients = jax.jit(functools.partial(with_terms, function))(arrays, terms, ids)
    differences = [(a - b).reshape(*ids.shape, -1)[ids > 0] for a, b in zip(actual, expected, strict=True)]
    differences += [a - b for a, b in zip(our_term_gradients, term_gradients, strict=True)]
    errors += [float(abs(difference).max()) for difference in differences]

test_step.LENGTH, losses = length, {}
runs = [("dense", mesh_of(1, 1, 1)), ("flash", mesh_of(2, 1, 2))]
if is_sweep:
    runs.append(("flash", mesh_of(1, 1, 4)))
for name, mesh in runs:
    shape = dataclasses.replace(test_step.SHAPE, max_positions=length)
    net = make_network(test_step.network().task, shape, Runtime(attention=name), mesh)
    trainer = make_trainer(net, test_step.config_with(**test_step.SMOOTH), total=10, warmup=0)
    parameters = jax.jit(net.new_parameters, out_shardings={n: v.sharding for n, v in net.abstract.items()})
    state, metrics_by_step = trainer.new_state(parameters(np.uint32(0))), []
    for number in range(2):
        batch = place_batch(test_step.batch(number, rows), mesh)
        state, metrics = trainer.train_step(state, batch, trainer.hyperparameters)
        metrics_by_step.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    losses[f"{name} {tuple(mesh.shape.values())}"] = metrics_by_step
print(json.dumps({"errors": errors, "losses": losses}))
"""


@pytest.mark.parametrize("extent", ["short", pytest.param("sweep", marks=pytest.mark.sweep)])
def test_kernels_over_a_mesh_compute_what_dense_does_on_one_device(on_eight_devices, extent):
    """Compares splash, chunked and dense attention by values and gradients, those of relative terms too.

    Flash is compared by train steps with dropout.

    Heads divide over `tensor`, and don't. Splash and flash are interpreted. The sweep has each mesh with blocks and
    without, and flash where heads don't divide.
    """
    output = on_eight_devices(SCRIPT, extent)
    assert len(output["errors"]) == 4 + {"short": 3, "sweep": 8}[extent] * 7 and max(output["errors"]) < 1e-5
    expected, *losses = output["losses"].values()
    assert len(losses) == {"short": 1, "sweep": 2}[extent]
    for ours, theirs in zip(sum(losses, []), expected * len(losses), strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
        assert ours[1] == pytest.approx(theirs[1], rel=1e-4)
