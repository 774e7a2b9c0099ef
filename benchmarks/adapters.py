"""Measures methods of adapters next to full fine-tuning, and LoRA next to peft with the Trainer; prints JSON lines.

    python benchmarks/adapters.py --data DIR --record FILE [--part quality|base|trainer] [--rates lora=3e-4 ...]

DIR holds wnut17/{train,dev}.conll and banking77/{train,test}.csv. FILE keeps a line for each finished run, and the same
command goes on with those that it lacks; the last lines are tables in Markdown.

- quality: MiniLM on WNUT-17 and Banking77: `SEVERAL` with each of --seeds, all methods with the first seed on WNUT-17.
  Full fine-tuning has its recipe's settings. The weights of the last step are measured on dev.conll or test.csv, on
  which nothing is chosen. The interval is the bootstrap's over examples, for the first seed.
- base: a BERT of base size, with random weights and the tokenizer of families.py, on WNUT-17: the peak memory of a step
  that the compiler plans, and the time of a step, in turns.
- trainer: LoRA on Banking77, by jaxft and by peft_classification.py, in turns: tokens without padding a second.

Speeds are measured with little to evaluate, for no side ends without an evaluation.

The trained share counts the head, the size that of the best checkpoint on disk.
"""

import argparse
import functools
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from families import make_model, read_texts, write_few
from side_by_side import print_line, recorded, run_jaxft, run_peer

from jaxft.hub.addresses import resolve_address
from jaxft.training.settings import MINILM

PARTS = ("quality", "base", "trainer")
LORA = {"adapter.method": "lora", "adapter.target_modules": "('all-linear',)"}
HEAD = {"optim.lr_multipliers": (("^head/", 10.0), (".", 1.0))}
# The methods with several seeds, by task.
SEVERAL = {
    "wnut17": ("full", "lora", "ia3", "prefix"),
    "banking77": ("full", "lora", "lora, head 1e-2", "ia3", "prefix"),
}
TEXTS = 32  # of a step of the parts base and trainer


class Method(NamedTuple):
    """The settings of a method, its learning rate, and its epochs on WNUT-17 and Banking77; None for the recipe's."""

    settings: Mapping[str, object]
    lr: float | None = None
    epochs: tuple[float, float] | None = None


METHODS = {
    "full": Method({}),
    "lora": Method(LORA, 1e-3, (8, 8)),
    "lora, head 1e-2": Method(LORA | HEAD, 1e-3, (8, 8)),  # the rate of the head of ia3 and prefix
    "ia3": Method({"adapter.method": "ia3"}, 1e-2, (8, 8)),
    "prefix": Method({"adapter.method": "prefix"}, 1e-2, (8, 8)),
    "rslora": Method(LORA | {"adapter.use_rslora": True}, 5e-4, (8, 8)),
    "dora": Method(LORA | {"adapter.use_dora": True}, 1e-3, (8, 8)),
    "pissa": Method(LORA | {"adapter.init_lora_weights": "pissa"}, 5e-4, (8, 8)),
    "lora bfloat16": Method(LORA | {"adapter.base_dtype": "bfloat16"}, 1e-3, (8, 8)),
    "lora int8": Method(LORA | {"adapter.base_dtype": "int8"}, 1e-3, (8, 8)),
    "adalora": Method(
        LORA | {"adapter.method": "adalora", "adapter.tinit": 0.1, "adapter.tfinal": 0.5}, 3e-3, (8, 8)
    ),
    "prompt": Method({"adapter.method": "prompt"}, 3e-2, (8, 8)),
    "bottleneck": Method({"adapter.method": "bottleneck", "adapter.r": 32}, 1e-3, (8, 8)),
    "bitfit": Method({"adapter.method": "bitfit"}, 3e-3, (8, 8)),
}


class Task(NamedTuple):
    """The recipe of a task, what is trained and measured on, and the metric."""

    recipe: str
    train: str
    measured: str
    metric: str


TASKS = {
    "wnut17": Task("ner:wnut17", "wnut17/train.conll", "wnut17/dev.conll", "entity_f1"),
    "banking77": Task("intent:banking77", "banking77/train.csv", "banking77/test.csv", "accuracy"),
}


def train(
    flags: argparse.Namespace, task: Task, settings: Mapping[str, object], workdir: Path
) -> dict[str, Any]:
    """Trains with a task's recipe and one evaluation, at the end, and returns what one line says of any run."""
    always = {
        "data.train": flags.data / task.train,
        "data.dev": flags.data / task.measured,
        "data.test": "none",
        "eval.every_steps": 10**6,
    }
    summary = run_jaxft(task.recipe, always | dict(settings) | dict(flags.settings), workdir)
    [parameters, trained] = find_numbers(r"([\d,]+) parameters, ([\d,]+) of them trained", summary["log"])
    [step_mib] = find_numbers(r"GFLOP, ([\d,]+) MiB", summary["log"])
    steps = summary["steps"]
    return {
        "steps": steps,
        "trained": trained,
        "trained_share": round(trained / parameters, 5),
        "step_ms": round(1000 * summary["train_s"] / steps, 1),
        "step_mib": step_mib,
        "tokens_per_s": round(summary["real_tokens_per_s"], 1),
        "late_compiles": summary["late_compiles"],
        task.metric: round(summary["dev"][task.metric], 4),
    }


def find_numbers(pattern: str, log: str) -> list[int]:
    """Returns the whole numbers that a pattern captures where it is found first in a log, with its lines joined."""
    match = re.search(pattern, " ".join(log.split()))
    assert match is not None, f"{pattern!r} is not in the log:\n{log}"
    return [int(number.replace(",", "")) for number in match.groups()]


def measure_quality(
    flags: argparse.Namespace,
    task_name: str,
    method_name: str,
    seed: int,
    lr: float | None,
    epochs: float | None,
) -> dict[str, Any]:
    """Trains with a method, and returns its metric with the interval, its costs and the size of its weights."""
    task, method = TASKS[task_name], METHODS[method_name]
    settings: dict[str, object] = {**method.settings, "seed": seed, "checkpoint.best_only": True}
    settings |= {} if lr is None else {"optim.lr": lr}
    settings |= {} if epochs is None else {"train.epochs": epochs}
    if task_name == "wnut17":
        settings["model.checkpoint"] = MINILM
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        line = train(flags, task, settings, workdir)
        interval = json.loads((workdir / "eval" / "dev.json").read_text())["intervals"][task.metric]
        size = sum(path.stat().st_size for path in (workdir / "best").rglob("*") if path.is_file())
    return line | {"interval": [round(bound, 4) for bound in interval], "best_mib": round(size / 2**20, 2)}


def run_quality(flags: argparse.Namespace) -> None:
    """Trains with all methods, and prints a table for each task."""
    rates, epochs = (dict(pair.split("=") for pair in pairs) for pairs in (flags.rates, flags.epochs))
    lines: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in flags.tasks}
    for task_name, method_name, seed in list_runs(flags):
        method = METHODS[method_name]
        usual = None if method.epochs is None else method.epochs[list(TASKS).index(task_name)]
        key = {
            "part": "quality",
            "task": task_name,
            "method": method_name,
            "seed": seed,
            "lr": float(rates[method_name]) if method_name in rates else method.lr,
            "epochs": float(epochs[method_name]) if method_name in epochs else usual,
        } | dict(flags.settings)
        measure = functools.partial(
            measure_quality, flags, task_name, method_name, seed, key["lr"], key["epochs"]
        )
        line = recorded(flags.record, key, measure)
        lines[task_name].setdefault(method_name, []).append(line)
    for task_name, methods in lines.items():
        print_table(
            [
                f"{task_name}, {TASKS[task_name].metric}",
                "mean",
                "seeds",
                "interval",
                "trained",
                "step",
                "memory",
                "best/",
            ],
            [describe_quality(name, TASKS[task_name].metric, runs) for name, runs in methods.items()],
        )


def list_runs(flags: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yields the task, the method and the seed of each run, the most telling first: first seeds, then the others."""
    for number, seed in enumerate(flags.seeds):
        for task_name in flags.tasks:
            for method_name in flags.methods:
                if method_name in SEVERAL[task_name] or (number == 0 and task_name == "wnut17"):
                    yield task_name, method_name, seed


def describe_quality(method: str, metric: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the row of a method in the table of a task, for its runs with several seeds."""
    scores, first = [100 * run[metric] for run in runs], runs[0]
    low, high = (100 * bound for bound in first["interval"])
    return [
        method,
        f"{statistics.mean(scores):.1f}",
        ", ".join(f"{score:.1f}" for score in scores),
        f"{low:.1f}–{high:.1f}",
        f"{first['trained_share']:.2%}",
        f"{statistics.median(run['step_ms'] for run in runs):.0f} ms",
        f"{first['step_mib']:,} MiB",
        f"{first['best_mib']:,.1f} MiB",
    ]


def run_base(flags: argparse.Namespace) -> None:
    """Trains a BERT of base size for some steps, in turns, and prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        _, few = write_few(flags.data, Path(folder))
        get_model = functools.cache(lambda: make_model("bert", read_texts(flags.data), Path(folder) / "bert"))

        def measure(settings: Mapping[str, object], repeat: int) -> dict[str, Any]:
            changes = {
                **settings,
                "model.checkpoint": get_model(),
                "data.dev": few,
                "batch.examples": TEXTS,
                "train.steps": flags.steps,
                "eval.bootstrap": 0,
                "seed": repeat,
            }
            with tempfile.TemporaryDirectory() as run_folder:
                return train(flags, TASKS["wnut17"], changes, Path(run_folder) / "run")

        methods = {
            "full": {},
            "lora": {"adapter.method": "lora"},
            "lora bfloat16": {"adapter.method": "lora", "adapter.base_dtype": "bfloat16"},
            "lora int8": {"adapter.method": "lora", "adapter.base_dtype": "int8"},
        }
        lines: dict[str, list[dict[str, Any]]] = {}
        for repeat in range(flags.repeats):
            for name, settings in methods.items():
                key = {"part": "base", "method": name, "repeat": repeat, "steps": flags.steps} | dict(
                    flags.settings
                )
                line = recorded(flags.record, key, functools.partial(measure, settings, repeat))
                lines.setdefault(name, []).append(line)
    full_mib = lines["full"][0]["step_mib"]
    rows = []
    for name, runs in lines.items():
        pairs = zip(runs, lines["full"], strict=True)
        ratio = statistics.median(run["step_ms"] / full["step_ms"] for run, full in pairs)
        step_mib = runs[0]["step_mib"]
        rows.append([name, f"{step_mib:,} MiB", f"{step_mib / full_mib:.2f}", f"{ratio:.2f}"])
    print_table(["BERT-base", "peak memory", "of full", "time of full"], rows)


def run_trainer(flags: argparse.Namespace) -> None:
    """Runs both sides in turns, and prints the ratios of their speeds."""
    task, peer = TASKS["banking77"], Path(__file__).with_name("peft_classification.py")

    def measure(side: str, repeat: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            few, _ = write_few(flags.data, Path(folder))
            if side == "peft":
                options = {"model": resolve_address(MINILM), "train": flags.data / task.train, "eval": few}
                options |= {"bs": TEXTS, "max-steps": flags.steps, "seed": repeat}
                line = run_peer(str(peer), options)
                peak = {"peak_mb": line["peak_rss_mb"]}
                return {"tokens_per_s": line["real_tokens_per_s"], "trained": line["trained"]} | peak
            settings = {
                "adapter.method": "lora",
                "optim.lr": 1e-3,
                "data.dev": few,
                "batch.examples": TEXTS,
                "train.steps": flags.steps,
                "eval.bootstrap": 0,
                "seed": repeat,
            }
            return train(flags, task, settings, Path(folder) / "run")

    rates: dict[str, list[float]] = {"jaxft": [], "peft": []}
    for repeat in range(flags.repeats):
        for side, values in rates.items():
            key = {"part": "trainer", "side": side, "repeat": repeat, "steps": flags.steps}
            key |= dict(flags.settings)
            line = recorded(flags.record, key, functools.partial(measure, side, repeat))
            values.append(line["tokens_per_s"])
    ratios = [ours / theirs for ours, theirs in zip(rates["jaxft"], rates["peft"], strict=True)]
    print_line(
        result="trainer",
        tokens_per_s=rates,
        ratios=[round(ratio, 2) for ratio in ratios],
        median_ratio=round(statistics.median(ratios), 2),
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True, help="file of the runs that are done")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", default=[], metavar="METHOD=LR", help="other learning rates")
    parser.add_argument("--epochs", nargs="+", default=[], metavar="METHOD=EPOCHS", help="other durations")
    parser.add_argument("--steps", type=int, default=40, help="of a run of the parts base and trainer")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the parts base and trainer")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of all jaxft runs, for trials",
    )
    flags = parser.parse_args()
    flags.data, flags.settings = flags.data.resolve(), [pair.split("=", 1) for pair in flags.settings]
    for part, run in (("quality", run_quality), ("base", run_base), ("trainer", run_trainer)):
        if part in flags.part:
            run(flags)


if __name__ == "__main__":
    main()
