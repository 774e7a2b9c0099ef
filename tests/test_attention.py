"""Which attention a run computes with, and that kernels over a mesh train as dense attention on one device does."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from jaxft import build
from jaxft.errors import UserError
from tests import test_step

BERT = {"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2}


def chosen(platform: str, hf_config=BERT, **values) -> str:
    defaults = {"model.dropout": 0.0, "data.max_length": 512}
    config = test_step.config_with(**(defaults | {key.replace("__", "."): v for key, v in values.items()}))
    return build.body_sizes(config, hf_config, platform)["attention"]


@pytest.fixture
def gpu(monkeypatch):
    """Makes this machine's first device a GPU of a compute capability."""
    return lambda capability: monkeypatch.setattr(
        jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)]
    )


def test_auto_takes_a_kernel_for_long_rows_without_dropout_where_it_can(gpu):
    gpu("8.0")
    assert chosen("cpu") == "dense"
    assert chosen("tpu") == "splash"
    assert chosen("gpu") == "cudnn"
    for platform in ("tpu", "gpu"):
        assert chosen(platform, data__max_length=256) == "dense"
        assert chosen(platform, model__dropout=0.1) == "dense"
        assert chosen(platform, model__dropout=None) == "dense"  # BERT's own rate
        assert chosen(platform, model__attention="dense") == "dense"
    assert chosen("tpu", data__max_length=1000) == "dense"
    assert chosen("tpu", model__attention="splash", data__max_length=128) == "splash"
    assert chosen("gpu", model__dtype="float32") == "dense"
    for capability in ("7.5", "gfx942"):
        gpu(capability)
        assert chosen("gpu") == "dense"


@pytest.mark.parametrize(
    ("platform", "values", "message"),
    [
        ("cpu", {}, "'splash' cannot run on this cpu; 'dense' computes the same"),
        ("tpu", {"model__attention": "cudnn"}, "'cudnn' cannot run on this tpu"),
        (
            "tpu",
            {"model__dropout": 0.1},
            "has no dropout of .* here 0.1; set config.model.dropout=0.0; 'dense'",
        ),
        ("tpu", {"data__max_length": 500}, "'splash' takes rows of a multiple of 128, not 500; 'dense'"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_refused(platform, values, message):
    with pytest.raises(UserError, match=message):
        chosen(platform, **({"model__attention": "splash"} | values))


SCRIPT = """
import functools
import json
import sys

import jax
import numpy as np

sys.path.insert(0, sys.argv[1])
import test_step

from jaxft import build, sharding
from jaxft.models import attention

attention.KERNELS["splash"] = functools.partial(attention.splash, interpret=True)
# In float32 too, which cuDNN does not compute in.
attention.KERNELS["cudnn"] = functools.partial(attention.cudnn, implementation="xla")
attention.obstacle = lambda kernel, *, length, **_: "too short" if length < 128 else None
test_step.LENGTH = 128
losses = {}
for name, sizes, heads in (
    ("dense", (1, 1, 1), 2),
    ("splash", (2, 2, 2), 2),
    ("cudnn", (2, 2, 2), 2),
    ("cudnn", (2, 1, 4), 2),  # heads do not divide: each device computes both
):
    devices = np.asarray(jax.devices())[: int(np.prod(sizes))].reshape(sizes)
    mesh = jax.sharding.Mesh(devices, sharding.AXES)
    body = test_step.SIZES | {"max_positions": 128, "attention_dropout": 0.0, "attention": name}
    net = build.network(test_step.network().task, body, mesh)
    trainer = build.trainer(net, test_step.config_with(**test_step.SMOOTH), total=10, warmup=0)
    parameters = jax.jit(net.new_parameters, out_shardings={n: v.sharding for n, v in net.abstract.items()})
    state, seed = trainer.new_state(parameters(np.uint32(0))), np.uint32(7)
    out = []
    for number in range(2):
        arrays = sharding.place(test_step.batch(number, 4), mesh)
        state, metrics = trainer.train_step(state, arrays, seed)
        out.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    losses[f"{name} {sizes}"] = out
print(json.dumps(losses))
"""


def test_kernels_over_a_mesh_train_as_dense_on_one_device(environment):
    """Interpreted, or by XLA in cuDNN's place; hidden dropout on, two segments and padding a row."""
    flags = environment["XLA_FLAGS"] + " " if "XLA_FLAGS" in environment else ""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)],
        env=environment | {"XLA_FLAGS": flags + "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = found.pop("dense (1, 1, 1)")
    for name, steps in found.items():
        for ours, theirs in zip(steps, expected, strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5), name
            assert ours[1] == pytest.approx(theirs[1], rel=1e-4), name
