"""Meshes: eight virtual devices, laid out in several ways, train as one does; settings that cannot be are refused."""

import jax
import pytest

from jaxft import config as settings
from jaxft import sharding
from jaxft.errors import UserError

SCRIPT = """
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, sys.argv[1])
import test_step

from jaxft import build, sharding

assert jax.device_count() == 8
losses = {}
for sizes in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)):
    devices = np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes)
    mesh = jax.sharding.Mesh(devices, sharding.AXES)
    config = test_step.config_with(**test_step.SMOOTH, **{"batch.accumulate": 2})
    rows = 16
    net = build.network(test_step.network().task, test_step.SIZES, mesh)
    trainer = build.trainer(net, config, total=10, warmup=0)
    state = trainer.new_state(
        {n: jax.device_put(v, net.abstract[n].sharding) for n, v in test_step.parameters_of(net).items()}
    )
    seed = jax.device_put(np.uint32(7), trainer.abstract.step.sharding)
    out = []
    for number in range(4):
        arrays = sharding.place(test_step.batch(number, rows), mesh)
        state, metrics = trainer.train_step(state, arrays, seed)
        out.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    losses["x".join(map(str, sizes))] = out
    whole = sum(x.nbytes for x in jax.tree.leaves((state.trainable, state.opt_state)))
    one = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((state.trainable, state.opt_state)))
    losses["share " + "x".join(map(str, sizes))] = one / whole
print(json.dumps(losses))
"""


def test_eight_devices_train_as_one_does(on_eight_devices):
    """Losses and gradient norms of several steps, with dropout and accumulation on; fsdp splits the state."""
    found = on_eight_devices(SCRIPT)
    for mesh in ("8x1x1", "1x8x1", "2x2x2"):
        for ours, theirs in zip(found[mesh], found["1x1x1"], strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5), mesh
            assert ours[1] == pytest.approx(theirs[1], rel=1e-4), mesh
    assert found["share 8x1x1"] == 1
    assert found["share 1x8x1"] < 0.25
    assert found["share 2x2x2"] < 0.5


def mesh_of(**sizes):
    config = settings.base()
    config.mesh.update(sizes)
    return config


def test_meshes_that_cannot_be_are_refused():
    count = jax.device_count()
    with pytest.raises(UserError, match=rf"takes {count * 3} devices, found {count}; set one axis to -1"):
        sharding.make_mesh(mesh_of(data=count * 3))
    with pytest.raises(UserError, match="at most one -1"):
        sharding.make_mesh(mesh_of(data=-1, fsdp=-1))
    with pytest.raises(UserError, match="sizes of 1 or more"):
        sharding.make_mesh(mesh_of(tensor=0))


def test_rows_must_divide_over_the_devices():
    mesh = jax.sharding.AbstractMesh((2, 4, 1), sharding.AXES)
    sharding.check_rows(mesh, 16, "config.batch.rows")
    with pytest.raises(
        UserError, match="config.batch.rows=12: rows go over 8 devices .* use a multiple of 8"
    ):
        sharding.check_rows(mesh, 12, "config.batch.rows")


def test_layout_of_parameters_follows_the_rules():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    spec = jax.sharding.PartitionSpec
    for name, shape, want in (
        ("body/layers/attention/query/kernel", (6, 8, 8), spec(None, "fsdp", "tensor")),
        ("body/layers/attention/output/kernel", (6, 8, 8), spec(None, "tensor", "fsdp")),
        ("body/layers/mlp/up/bias", (6, 8), spec(None, "tensor")),
        ("body/embeddings/word/embedding", (100, 8), spec("tensor", "fsdp")),
        ("body/embeddings/word/embedding", (101, 8), spec(None, "fsdp")),  # does not divide: left whole
        ("body/layers/mlp_norm/scale", (6, 8), spec(None, None)),
        ("head/kernel", (8, 9), spec("fsdp", None)),
    ):
        assert sharding.spec(name, shape, mesh) == want, name
