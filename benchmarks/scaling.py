"""One device against several, and one process against two, at a fixed global batch; prints JSON lines.

    python benchmarks/scaling.py [--part devices processes compile] [--steps 8] [--rows 8] [--length 64]

devices and processes: whole runs of `jaxft.main` with MiniLM (packing, dropout 0.1, float32) over 2, 4 and 8 virtual
CPU devices by data and by fsdp, and over two processes (gloo), beside one device. Of each: bytes a device of the
parameters and of all that a step keeps (optimizer state too), seconds a step, the first and last loss, and how far any
step's loss is from one device's. All devices and processes share this machine's cores, so seconds tell what spreading
costs, not what it gains. compile: BERT-base's train step on one CPU device, layers scanned and unrolled.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax
import numpy as np

from jaxft.data.demo import ner
from jaxft.models.pretrained_model import resolve_sizes
from jaxft.parallel.mesh import AXES
from jaxft.tasks.registry import task_class
from jaxft.tasks.token_classification.task import TokenClassification
from jaxft.training.network import make_network
from jaxft.training.settings import load_settings
from jaxft.training.setup import make_trainer, open_base_model

RECIPE = str(pathlib.Path(__file__).resolve().parents[1] / "configs/ner.py")
MESHES = [{"data": 1}, *({axis: ways} for ways in (2, 4, 8) for axis in ("data", "fsdp"))]


def write_corpus(folder: pathlib.Path) -> dict[str, str]:
    """Small files of `demo:ner`: settings that name them, and the cache."""
    sentences = ner.generate_sentences("train")
    found = {"data.test": "none", "data.cache_dir": str(folder / "cache")}
    for name, size in (("train", 1000), ("dev", 32)):
        blocks = (
            "".join(f"{word}\t{tag}\n" for word, tag in zip(s.words, s.tags, strict=True))
            for s in itertools.islice(sentences, size)
        )
        path = folder / f"{name}.conll"
        path.write_text("\n".join(blocks), encoding="utf-8")
        found[f"data.{name}"] = str(path)
    return found


def bytes_per_device(sizes: dict[str, int], values: dict) -> dict[str, int]:
    """What a device of the mesh holds."""
    settings = load_settings(RECIPE, flags_of(values))
    checkpoint = open_base_model(settings, lambda: [])
    task = task_class(settings)(demo_labels(), head_dropout=0.1, config=settings)
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = jax.sharding.Mesh(devices, AXES)
    net = make_network(task, resolve_sizes(settings, checkpoint.hf_config), mesh)
    state = make_trainer(net, settings, total=10, warmup=0).abstract

    def held(tree) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    return {"parameter_bytes_per_device": held(state.trainable), "state_bytes_per_device": held(state)}


def demo_labels() -> list[str]:
    """Those of the corpus."""
    sentences = list(itertools.islice(ner.generate_sentences("train"), 1000))
    return TokenClassification.make_labels(TokenClassification.find_labels(sentences))


def flags_of(values: dict) -> list[str]:
    """Settings as flags of the command line."""
    return [f"--config.{key}={value}" for key, value in values.items()]


def run(folder: pathlib.Path, values: dict, *, devices: int = 1, processes: int = 1) -> dict:
    """Seconds a step and losses of one run of `jaxft.main`."""
    command = [sys.executable, "-m", "jaxft.main", "--config", RECIPE, "--workdir", str(folder)]
    command += flags_of(values)
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command += ["--coordinator", address, "--num_processes", str(processes)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    started = [
        subprocess.Popen(
            command + (["--process_id", str(index)] if processes > 1 else []),
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
        )
        for index in range(processes)
    ]
    if any([one.wait() for one in started]):
        raise SystemExit(f"a run failed: {' '.join(command)}")
    summary = json.loads((folder / "summary.json").read_text())
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    return {"step_s": round(summary["train_s"] / summary["steps"], 3), "losses": losses}


def compile_times() -> None:
    """Prints seconds of compilation with layers scanned and unrolled, by the verb `plan`."""
    for unroll in ("no", "yes"):
        values = {"model.checkpoint": "new:bert", "model.unroll": unroll}
        command = [
            sys.executable,
            "-m",
            "jaxft",
            "plan",
            "--config",
            RECIPE,
            "--topology",
            "cpu:1",
            "--json",
        ]
        done = subprocess.run(command + flags_of(values), capture_output=True, text=True, check=True)
        seconds = json.loads(done.stdout)["compile_s"]
        layers = {"no": "scanned", "yes": "unrolled"}[unroll]
        print(json.dumps({"part": "compile", "layers": layers, "compile_s": round(seconds, 1)}), flush=True)


def main() -> None:
    """Parses the flags and measures."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = ("devices", "processes", "compile")
    flags.add_argument("--part", nargs="+", choices=parts, default=parts)
    flags.add_argument("--steps", type=int, default=8)
    flags.add_argument("--rows", type=int, default=8)
    flags.add_argument("--length", type=int, default=64)
    flags = flags.parse_args()
    jax.config.update("jax_num_cpu_devices", max(math.prod(sizes.values()) for sizes in MESHES))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        values = write_corpus(folder) | {
            "batch.rows": flags.rows,
            "data.max_length": flags.length,
            "train.steps": flags.steps,
            "eval.every_steps": flags.steps,
            "eval.rows": 8,
            "eval.bootstrap": 0,
            "log.every_steps": 1,
            "log.tensorboard": False,
        }
        cases = MESHES if "devices" in flags.part else MESHES[:1] if "processes" in flags.part else []
        one = None
        for number, sizes in enumerate(cases):
            mesh = {axis: sizes.get(axis, 1) for axis in AXES}
            own = values | {f"mesh.{axis}": ways for axis, ways in mesh.items()}
            found = run(folder / f"devices{number}", own, devices=math.prod(mesh.values()))
            one = one or found
            told = {"part": "devices", "mesh": mesh} | bytes_per_device(mesh, own)
            print(json.dumps(told | against(found, one)), flush=True)
        if "processes" in flags.part:
            found = run(folder / "processes", values, processes=2)
            print(json.dumps({"part": "processes", "processes": 2} | against(found, one)), flush=True)
    if "compile" in flags.part:
        compile_times()


def against(found: dict, one: dict) -> dict:
    """The figures of a run beside one device's."""
    pairs = zip(found["losses"], one["losses"], strict=True)
    return {
        "step_s": found["step_s"],
        "first_loss": round(found["losses"][0], 6),
        "last_loss": round(found["losses"][-1], 6),
        "largest_difference": max(abs(a - b) for a, b in pairs),
    }


if __name__ == "__main__":
    main()
