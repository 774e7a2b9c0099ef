"""Compares two tasks on one backbone with a run of each task, on NLU++; prints JSON lines.

    python benchmarks/multi_task.py --data DIR [--domain hotels] [--part steps quality] [--epochs 30] [--seeds 0]

DIR has banking.jsonl and hotels.jsonl (`text`, `intents`, `spans`, `fold`). All runs use `configs/nlupp.py`; single
runs have only one of its two tasks, so losses, weights, clipping and the rows of a step are the same. Fold k of the
paper's large setting (Casanueva et al. 2022) tests on folds 2k and 2k + 1. Here the next two folds are dev, and
training has the other 16.

steps    times train steps on the same texts, in turns in one process: the median of each run, and the ratio of the
         joint step to the sum of the two single steps in the same turn.
quality  trains complete runs: scores on dev and test, seconds of training and non-padding tokens.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from task_throughput import Steps

from jaxft.training.settings import load_settings

RECIPE = pathlib.Path(__file__).resolve().parents[1] / "configs" / "nlupp.py"
METRICS = {"intents": "intents/f1_micro", "slots": "slots/entity_f1"}
RUNS = {"joint": ("intents", "slots"), "intents": ("intents",), "slots": ("slots",)}


def make_overrides(flags: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    """Returns the overrides of the recipe for a run of the named tasks."""
    test_folds = (2 * flags.fold, 2 * flags.fold + 1)
    dev_folds = tuple((fold + 2) % 20 for fold in test_folds)
    train_folds = [fold for fold in range(20) if fold not in test_folds + dev_folds]
    domains = ("banking", "hotels") if flags.domain == "all" else (flags.domain,)
    tasks = tuple(task for task in load_settings(f"{RECIPE}:{flags.domain}").tasks if task[0] in names)
    values = {"tasks": tasks, "batch.rows": 8, "eval.metric": "+".join(METRICS[name] for name in names)}
    for name, folds in (("train", train_folds), ("dev", dev_folds), ("test", test_folds)):
        fold_list = ",".join(map(str, folds))
        sources = (f"{flags.data}/{domain}.jsonl?fold={fold_list}" for domain in domains)
        values[f"data.{name}"] = ";".join(sources)
    return [f"--config.{key}={value}" for key, value in values.items()] + flags.overrides


def measure_steps(flags: argparse.Namespace) -> None:
    """Prints milliseconds of a step of each run, measured in turns."""
    steps = {
        name: Steps(load_settings(f"{RECIPE}:{flags.domain}", make_overrides(flags, tasks)))
        for name, tasks in RUNS.items()
    }
    seconds = {name: [] for name in steps}
    for turn in range(flags.turns + 1):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            step_seconds, _ = steps[name].time_step(0)
            if turn:  # the first turn touches memory
                seconds[name].append(step_seconds)
    ratios = [joint / (first + second) for joint, first, second in zip(*seconds.values(), strict=True)]
    medians = {f"{name}_ms": round(1000 * statistics.median(values), 1) for name, values in seconds.items()}
    spread = {"least": round(min(ratios), 3), "largest": round(max(ratios), 3)}
    line = {"part": "steps", "domain": flags.domain, "turns": flags.turns, **medians}
    print(json.dumps(line | {"ratio": round(statistics.median(ratios), 3), **spread}), flush=True)


def measure_quality(flags: argparse.Namespace, seed: int) -> None:
    """Prints scores and costs of a run with both tasks and of a run with each."""
    for name, tasks in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                *make_overrides(flags, tasks),
                f"--config.seed={seed}",
                f"--config.train.epochs={flags.epochs}",
                "--config.log.tensorboard=False",
            ]
            command = [
                "-m",
                "jaxft.main",
                "--config",
                f"{RECIPE}:{flags.domain}",
                "--workdir",
                f"{folder}/run",
            ]
            subprocess.run([sys.executable, *command, *overrides], check=True, stdout=sys.stderr)
            summary = json.loads(pathlib.Path(folder, "run", "summary.json").read_text())
        line = {
            "part": "quality",
            "domain": flags.domain,
            "run": name,
            "seed": seed,
            "steps": summary["steps"],
        }
        line |= {"train_s": round(summary["train_s"], 1)}
        line |= {"real_tokens": round(summary["real_tokens_per_s"] * summary["train_s"])}
        for split in ("dev", "test"):
            line[split] = {METRICS[task]: round(100 * summary[split][METRICS[task]], 2) for task in tasks}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder of banking.jsonl and hotels.jsonl")
    parser.add_argument("--domain", default="hotels", choices=("banking", "hotels", "all"))
    parser.add_argument("--part", nargs="+", default=["steps", "quality"], choices=("steps", "quality"))
    parser.add_argument("--fold", type=int, default=0, choices=range(10), help="of the paper's large setting")
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--turns", type=int, default=9)
    flags, flags.overrides = parser.parse_known_args()
    if "steps" in flags.part:
        measure_steps(flags)
    if "quality" in flags.part:
        for seed in flags.seeds:
            measure_quality(flags, seed)


if __name__ == "__main__":
    main()
