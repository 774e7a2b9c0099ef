"""jaxft beside the Hugging Face Trainer on one NER corpus: speed in turns, F1 over seeds; prints JSON lines.

    python benchmarks/ner_throughput.py --data DIR --peer hf_ner.py [--part speed|quality|start]

DIR holds train.conll and dev.conll. The peer script takes --model, --train, --eval, --epochs, --max-steps,
--lr, --seed, --group and prints a JSON line with real_tokens_per_s, peak_rss_mb and f1. Both sides see the same
sentences a step on average: the peer takes --batch, jaxft as many packed rows as hold as many. Speeds are of the
training loop alone, without start-up, compilation and evaluation, over non-padding tokens.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxft.hub.addresses import resolve_address
from jaxft.training.settings import MINILM

REPOSITORY = Path(__file__).resolve().parents[1]
SIDES = {"peer": [], "peer_grouped": ["--group"]}  # flags of the peer script
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1"}


def run_peer(flags, *extra) -> dict:
    """One run of the peer script; the JSON line it prints."""
    command = [sys.executable, flags.peer, "--model", str(resolve_address(flags.model)), "--lr", "1e-4"]
    command += ["--bs", str(flags.batch)]
    command += ["--train", f"{flags.data}/train.conll", "--eval", f"{flags.data}/dev.conll", *map(str, extra)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_jaxft(flags, *extra) -> dict:
    """One run of jaxft in a folder of its own; its summary.json, and the seconds the whole command took."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model.checkpoint": flags.model,
            "data.train": f"{flags.data}/train.conll",
            "data.dev": f"{flags.data}/dev.conll",
            "data.test": "none",
            "data.max_length": flags.length,
            "batch.rows": flags.rows,
            "optim.lr": 1e-4,
            "log.tensorboard": False,
            "checkpoint.every_steps": 10**6,  # at the end only; the peer saves nothing
        }
        command = [sys.executable, "-m", "jaxft.main", "--config", str(REPOSITORY / "configs/ner.py")]
        command += [
            "--workdir",
            f"{folder}/run",
            *(f"--config.{key}={value}" for key, value in settings.items()),
        ]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *extra], env=ENVIRONMENT, cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - began
        summary = json.loads((Path(folder) / "run/summary.json").read_text())
        first = next(line for line in done.stdout.splitlines() if " ready " in line)
        return summary | {"command_s": seconds, "ready_s": float(first.split(" ready ")[1].split()[0])}


def matmul_peak() -> float:
    """FLOP/s of a product as the models', in the dtype they compute in, the best of several."""
    import jax
    import jax.numpy as jnp

    rows, width, dtype = (
        (4096, 1536, "float32") if jax.default_backend() == "cpu" else (8192, 8192, "bfloat16")
    )
    product = jax.jit(jnp.matmul)
    a, b = (jax.random.normal(jax.random.key(0), (n, width), dtype) for n in (rows, width))
    product(a, b).block_until_ready()
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        product(a, b).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * rows * width**2 / min(seconds)


def show(**line) -> None:
    """Prints one JSON line."""
    print(json.dumps(line), flush=True)


def speed(flags) -> None:
    """Runs of --epochs-speed epochs in turn: jaxft and each of --sides; medians and ratios."""
    rates = {name: [] for name in ("jaxft", *flags.sides)}
    memory = {name: [] for name in rates}
    for repeat in range(flags.repeats):
        ours = run_jaxft(flags, f"--config.train.epochs={flags.epochs_speed}")
        rates["jaxft"].append(ours["real_tokens_per_s"])
        memory["jaxft"].append(ours["peak_rss_bytes"] / 2**20)
        show(
            run="jaxft",
            repeat=repeat,
            **{
                k: ours[k]
                for k in (
                    "steps",
                    "train_s",
                    "real_tokens_per_s",
                    "padding_fraction",
                    "input_stall_fraction",
                    "peak_rss_bytes",
                    "late_compiles",
                    "ready_s",
                )
            },
        )
        flops = ours["train_flops_per_token"]
        for name in flags.sides:
            line = run_peer(flags, "--epochs", flags.epochs_speed, *SIDES[name])
            rates[name].append(line["real_tokens_per_s"])
            memory[name].append(line["peak_rss_mb"])
            show(run=name, repeat=repeat, **line)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peak = matmul_peak()
    share = medians["jaxft"] * flops / peak  # of the model's FLOPs, without what is computed for padding
    show(
        result="speed",
        median_tokens_per_s={name: round(value) for name, value in medians.items()},
        ratios={
            name: [round(a / b, 2) for a, b in zip(rates["jaxft"], rates[name], strict=True)]
            for name in flags.sides
        },
        median_ratios={
            name: round(statistics.median(a / b for a, b in zip(rates["jaxft"], rates[name], strict=True)), 2)
            for name in flags.sides
        },
        median_peak_mb={name: round(statistics.median(values)) for name, values in memory.items()},
        matmul_peak_gflops=round(peak / 1e9),
        share_of_matmul_peak=round(share, 3),
    )


def quality(flags) -> None:
    """Dev entity F1 after six epochs over the same seeds; --side runs one side alone, to share out the hours."""
    for seed in flags.seeds:
        if flags.side != "peer":
            # Of the last step, as the peer's: one evaluation, at the end.
            ours = run_jaxft(
                flags,
                "--config.train.epochs=6.0",
                f"--config.seed={seed}",
                "--config.eval.every_steps=1000000",
            )
            metrics = {name: ours["dev"][name] for name in ("entity_f1", "entity_precision", "entity_recall")}
            show(run="jaxft", seed=seed, steps=ours["steps"], **metrics, lenient_f1=ours["dev"]["lenient_f1"])
        if flags.side != "jaxft":
            show(run="peer", seed=seed, **run_peer(flags, "--epochs", 6, "--seed", seed))


def start(flags) -> None:
    """Seconds from the command to the first step with the compilation cache filled."""
    seconds = [run_jaxft(flags, "--config.train.steps=2")["ready_s"] for _ in range(flags.repeats + 1)][1:]
    show(result="start", ready_s=seconds, median=statistics.median(seconds))


def main() -> None:
    """Parses the flags and runs the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", default=MINILM, help="a BERT's address")
    parser.add_argument("--batch", type=int, default=32, help="sentences of a step of the peer")
    parser.add_argument("--part", choices=["speed", "quality", "start", "all"], default="all")
    parser.add_argument(
        "--length", type=int, default=64, help="of a packed row; longer sentences are cut in two"
    )
    parser.add_argument("--rows", type=int, default=16, help="of a step: 16 of 64 hold 32 WNUT sentences")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="peers of the speed part"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--side", choices=["jaxft", "peer", "both"], default="both", help="of the quality part"
    )
    parser.add_argument("--epochs-speed", type=float, default=1.0)
    flags = parser.parse_args()
    for name, part in (("start", start), ("speed", speed), ("quality", quality)):
        if flags.part in (name, "all"):
            part(flags)


if __name__ == "__main__":
    main()
