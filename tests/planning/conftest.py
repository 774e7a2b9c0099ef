"""Plans that the tests of planning share: made in one process, for it starts with eight devices."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxft.config.recipes import flatten_values
from jaxft.config.sections import Settings
from jaxft.planning.estimate import Estimate
from jaxft.training.settings import settings_from_config

# Reads flags of plans, and writes the result of each.
SCRIPT = """
import contextlib, io, json, sys
from jaxft.cli import choose

results = []
for flags in json.loads(sys.stdin.read()):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            choose.plan(flags)
        except SystemExit as exit:
            code = exit.code
    results.append({"out": out.getvalue(), "err": err.getvalue(), "code": code})
print(json.dumps(results))
"""
SIZES = (("hidden_size", 32), ("num_hidden_layers", 3), ("num_attention_heads", 4), ("intermediate_size", 64))
SIZES += (("vocab_size", 1000), ("max_position_embeddings", 64))
# A tiny BERT, from no checkpoint, and no data. It names no task's own settings, so flags can set any task.
TINY = {
    "task": "token_classification",
    "model": {
        "checkpoint": "new:bert",
        "sizes": SIZES,
        "unroll": "no",  # quicker to compile, as is no dropout
        "dropout": 0.0,
    },
    "data": {"max_length": 32},
    "batch": {"rows": 32},
}
# Where `make test` puts libtpu: not among the packages, for with it jax looks for a TPU, aloud, at every start.
LIBTPU = pathlib.Path(sys.prefix) / "libtpu"
CPU = ["--topology", "cpu:8", "--json"]
SMALL = (("hidden_size", 64), ("num_attention_heads", 4), ("intermediate_size", 128), ("vocab_size", 1000))
POSITIONS = (("position_buckets", 8), ("share_att_key", False), ("conv_kernel_size", 3))
DISTANCES = [
    "--config.model.checkpoint=new:deberta-v3",
    "--rows_per_device=32",
    "--config.data.max_length=64",
]
DISTANCES += [f"--config.model.sizes={(*SMALL, ('num_hidden_layers', 2), *POSITIONS)}"]
# The first layer sees rows whole, of more than a chunk of attention, the second one by windows.
WINDOWS = ["--config.model.checkpoint=new:modernbert", "--rows_per_device=4", "--config.data.max_length=512"]
WINDOWS += [f"--config.model.sizes={(*SMALL, ('num_hidden_layers', 2), ('local_attention', 64))}"]
WINDOWS += ["--config.model.attention=chunked"]
IMAGES = [
    "--topology",
    "cpu:1",
    "--json",
    "--config.task=image_classification",
    "--config.model.init=scratch",
]
IMAGES += ["--labels=10", "--config.data.max_length=128", "--config.data.image_size=64"]
IMAGES += ["--config.batch.rows=none", "--config.batch.examples=24"]
VIT_SIZES = (
    ("hidden_size", 128),
    ("intermediate_size", 256),
    ("num_hidden_layers", 2),
    ("num_attention_heads", 4),
)
VIT = [*IMAGES, "--config.model.checkpoint=new:vit", f"--config.model.sizes={VIT_SIZES}"]
RESNET_SIZES = (("embedding_size", 8), ("hidden_sizes", (16, 32)), ("depths", (2, 1)))
RESNET = [*IMAGES, "--config.model.checkpoint=new:resnet", f"--config.model.sizes={RESNET_SIZES}"]
# Images of 12 places behind the stem, which Winograd's method, with fewer products, does not convolve.
RESNET += ["--config.data.image_size=48"]
FSDP = ["--config.mesh.data=1", "--config.mesh.fsdp=8"]


def tiny_config(**changes) -> Settings:
    """Returns the settings of `TINY`; `model__unroll="yes"` changes one."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return settings_from_config(flatten_values(TINY) | changes)


def estimate_of(plan: dict) -> Estimate:
    """Returns the estimate in the JSON of a plan."""
    return Estimate(**{name: value for name, value in plan.items() if name != "remedies"})


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """Writes `TINY` as a config.json."""
    path = tmp_path_factory.mktemp("plan") / "config.json"
    path.write_text(json.dumps(TINY))
    return str(path)


@pytest.fixture(scope="session")
def plans(recipe, environment, python):
    """Makes plans in one process; returns {"code", "out", "err"} of each.

    tpu: for TPU slices. effort: how hard the compiler tries, from -1; 0 as for users.
    """

    def make(*flag_lists: list[str], tpu: bool = False, effort: float = 0.0) -> list[dict]:
        commands = [["--config", recipe, *map(str, flags)] for flags in flag_lists]
        path = f"{environment['PYTHONPATH']}{os.pathsep}{LIBTPU}" if tpu else environment["PYTHONPATH"]
        done = subprocess.run(
            [*([sys.executable] if tpu else python), "-c", SCRIPT],
            input=json.dumps(commands),
            env=environment
            | {"PYTHONPATH": path, "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": str(effort)}
            | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return make


@pytest.fixture(scope="session")
def estimates(plans, tmp_path_factory):
    """JSON of plans on eight devices, by name."""
    flags = {
        "data": [*CPU, "--chip", "v5e", "--dump", tmp_path_factory.mktemp("dump") / "step.hlo"],
        "fsdp": [*CPU, *FSDP],
        "unrolled": [*CPU, *FSDP, "--config.model.unroll=yes"],
        "distances": [*CPU, *DISTANCES],
        "windows": [*CPU, *WINDOWS],
        "vit": VIT,
        "resnet": RESNET,
    }
    done = plans(*flags.values())
    assert all(plan["code"] == 0 for plan in done), done
    assert flags["data"][-1].read_text().startswith("HloModule jit_train_step")
    return {name: json.loads(plan["out"]) for name, plan in zip(flags, done, strict=True)}
