"""Compares one device with several, and one process with two, at a fixed global batch; prints JSON lines.

    python benchmarks/scaling.py [--part devices processes compile] [--steps 8] [--rows 8] [--length 64]

devices and processes: runs of `jaxft.main` with MiniLM (packing, dropout 0.1, float32) on one device, on 2, 4 and 8
virtual CPU devices by data and by fsdp, and in two processes (gloo). A line has the bytes per device of the parameters
and of the train state (including the optimizer state), the seconds per step, the first and last loss, and the largest
difference between a step's loss and that of one device. All devices and processes share this machine's cores, so the
seconds show the cost of distribution, not its gain.

compile: BERT-base's train step on one CPU device, with layers scanned and unrolled.
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
from jaxft.parallel.mesh import AXES
from jaxft.tasks.registry import make_data
from jaxft.tasks.token_classification.data import make_tag_labels
from jaxft.training.prepare import prepare_network, prepare_task
from jaxft.training.settings import load_settings
from jaxft.training.trainer import make_trainer

RECIPE = str(pathlib.Path(__file__).resolve().parents[1] / "configs/ner.py")
MESHES = [{"data": 1}, *({axis: ways} for ways in (2, 4, 8) for axis in ("data", "fsdp"))]


def write_corpus(folder: pathlib.Path) -> dict[str, str]:
    """Writes small files of `demo:ner`; returns settings that name them and a cache."""
    sentences = ner.generate_sentences("train")
    values = {"data.test": "none", "data.cache_dir": str(folder / "cache")}
    for name, size in (("train", 1000), ("dev", 32)):
        blocks = (
            "".join(f"{word}\t{tag}\n" for word, tag in zip(s.words, s.tags, strict=True))
            for s in itertools.islice(sentences, size)
        )
        path = folder / f"{name}.conll"
        path.write_text("\n".join(blocks), encoding="utf-8")
        values[f"data.{name}"] = str(path)
    return values


def bytes_per_device(sizes: dict[str, int], values: dict) -> dict[str, int]:
    """Returns the bytes that a device of a mesh of `sizes` holds of the parameters and of the train state."""
    settings = load_settings(RECIPE, flags_of(values))
    checkpoint = make_data(settings).open_model(())
    task = prepare_task(settings, checkpoint.hf_config, demo_labels())
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = jax.sharding.Mesh(devices, AXES)
    net = prepare_network(task, settings, checkpoint.hf_config, mesh)
    state = make_trainer(net, settings, total=10, warmup=0).abstract

    def shard_bytes(tree) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    return {
        "parameter_bytes_per_device": shard_bytes(state.trainable),
        "state_bytes_per_device": shard_bytes(state),
    }


def demo_labels() -> list[str]:
    """Returns the labels of the corpus."""
    sentences = itertools.islice(ner.generate_sentences("train"), 1000)
    return make_tag_labels([tag for sentence in sentences for tag in sentence.tags])


def flags_of(values: dict) -> list[str]:
    """Returns settings as flags of the command line."""
    return [f"--config.{key}={value}" for key, value in values.items()]


def run(folder: pathlib.Path, values: dict, *, devices: int = 1, processes: int = 1) -> dict:
    """Runs `jaxft.main`; returns seconds a step and the loss of each step."""
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
    if any([process.wait() for process in started]):
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    measurements = ("devices", "processes", "compile")
    parser.add_argument("--part", nargs="+", choices=measurements, default=measurements)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    flags = parser.parse_args()
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
        if "devices" in flags.part:
            meshes = MESHES
        else:
            meshes = MESHES[:1] if "processes" in flags.part else []
        on_one_device = None
        for number, sizes in enumerate(meshes):
            mesh = {axis: sizes.get(axis, 1) for axis in AXES}
            mesh_values = values | {f"mesh.{axis}": ways for axis, ways in mesh.items()}
            result = run(folder / f"devices{number}", mesh_values, devices=math.prod(mesh.values()))
            if on_one_device is None:
                on_one_device = result
            row = {"part": "devices", "mesh": mesh} | bytes_per_device(mesh, mesh_values)
            print(json.dumps(row | compare(result, on_one_device)), flush=True)
        if "processes" in flags.part:
            result = run(folder / "processes", values, processes=2)
            row = {"part": "processes", "processes": 2}
            print(json.dumps(row | compare(result, on_one_device)), flush=True)
    if "compile" in flags.part:
        compile_times()


def compare(result: dict, on_one_device: dict) -> dict:
    """Returns the figures of a run, compared with one device's."""
    pairs = zip(result["losses"], on_one_device["losses"], strict=True)
    return {
        "step_s": result["step_s"],
        "first_loss": round(result["losses"][0], 6),
        "last_loss": round(result["losses"][-1], 6),
        "largest_difference": max(abs(a - b) for a, b in pairs),
    }


if __name__ == "__main__":
    main()
