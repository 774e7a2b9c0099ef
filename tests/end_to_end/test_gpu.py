"""What only a GPU shows, skipped where there is none. Where there is one:

XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_PLATFORMS=cuda XLA_FLAGS= python -m pytest -n 0 tests/end_to_end/test_gpu.py
"""

import re
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention.flash import flash_attention
from jaxft.layers.attention.interface import Visibility
from jaxft.layers.dropout import DropoutSeed
from jaxft.training.trainer import make_trainer
from tests.end_to_end import test_resume
from tests.training import test_step

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(
    ("length", "width", "visibility"),
    [
        (1024, 64, Visibility(causal=True)),
        (128, 32, Visibility()),
        (192, 16, Visibility()),
        (1024, 64, Visibility(window=64)),
    ],
)
def test_flash_is_dense_in_value_and_gradient(length, width, visibility, rate):
    """In bfloat16, against dense in float32: to the rounding of the operands, and no further off than dense."""
    rows, heads = 4, 3
    options, drawn = (
        {"num_heads": heads, "visibility": visibility},
        {"seed": DropoutSeed(jnp.uint32(3), jnp.int32(5)), "site": 7},
    )
    ids = np.sort(np.random.default_rng(0).integers(1, 6, (rows, length)), axis=1)
    ids[0, -length // 8 :] = 0
    real, ids = ids.ravel() > 0, jnp.asarray(ids, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, (rows * length, heads * width), jnp.bfloat16) for key in keys]
    arrays[3] = jnp.where(real[:, None], arrays[3], 0)

    def error(function, dtype):
        def compute(q, k, v, pull):
            out, back = jax.vjp(function, q, k, v)
            return out, *back(pull)

        results = jax.jit(compute)(*(x.astype(dtype) for x in arrays))
        return [np.asarray(x, np.float64)[real] for x in results]

    def dense(q, k, v):
        return dense_attention(q, k, v, ids, **options, **drawn, rate=rate)

    def flash(q, k, v):
        return flash_attention(q, k, v, ids, **options, **drawn, rate=rate)

    with jax.default_matmul_precision("highest"):
        exact = error(dense, jnp.float32)
    for name, ours, other, truth in zip(
        "out dq dk dv".split(), error(flash, jnp.bfloat16), error(dense, jnp.bfloat16), exact, strict=True
    ):
        off, off_dense = (np.linalg.norm(x - truth) / np.linalg.norm(truth) for x in (ours, other))
        assert off < 5e-3 and off < 1.2 * off_dense, name


def test_steps_of_a_run_are_the_same_to_the_bit_when_run_again():
    """Which they are not where it is left to the GPU's atomic additions."""
    net = test_step.network(num_heads=1, attention="dense", dtype=jnp.dtype("bfloat16"), unroll=True)
    trainer = make_trainer(
        net, test_step.config_with(**test_step.SMOOTH, **{"train.deterministic": True}), total=10, warmup=0
    )
    ends = []
    for _ in range(2):
        state = trainer.new_state(test_step.parameters_of(net))
        for number in range(5):
            state, _ = trainer.train_step(state, test_step.batch(number, 64), trainer.hyperparameters)
        ends.append(jax.tree.map(np.asarray, state))
    for name, value in ends[0].trainable.items():
        assert value.tobytes() == ends[1].trainable[name].tobytes(), name


def test_a_killed_run_ends_bit_identically(tiny_flags, environment, python, tmp_path):
    """With config.train.deterministic; each start compiles by itself, as on another machine."""
    kill = 'on(Loader, "batch", lambda _, step: step == 45)'

    def start(workdir, moment=""):
        flags = [*tiny_flags, "--config.train.deterministic=True", "--workdir", str(workdir)]
        return subprocess.run(
            [*python, "-c", test_resume.DRIVER, moment, *flags],
            env=environment | {"JAX_ENABLE_COMPILATION_CACHE": "0"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    undisturbed, killed = tmp_path / "whole", tmp_path / "killed"
    for workdir, moment, code in ((undisturbed, "", 0), (killed, kill, -signal.SIGKILL), (killed, "", 0)):
        done = start(workdir, moment)
        assert done.returncode == code, done.stdout + done.stderr
    assert re.search(r"going on at step [234]\d of 100", done.stdout)
    test_resume.assert_same_run(undisturbed, killed)
