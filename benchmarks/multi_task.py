"""Two tasks on one backbone beside a run of each, on NLU++; prints JSON lines.

    python benchmarks/multi_task.py --data DIR [--domain hotels] [--part steps quality] [--epochs 30] [--seeds 0]

DIR has banking.jsonl and hotels.jsonl (`text`, `intents`, `spans`, `fold`). Every run is `configs/nlupp.py`, the single
ones with one of its two tasks, so that losses, weights, clipping and the rows of a step are the same. Fold k of the
paper's large setting (Casanueva et al. 2022) tests on folds 2k and 2k + 1; here the next two are dev, and training has
the other 16.

steps    seconds of a train step on the same texts, in turns in one process: medians, and of each turn the joint step's
         by the sum of the two single ones.
quality  whole runs: scores on dev and test, seconds of training and real tokens.
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


def flags_for(flags: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    """Overrides of the recipe for a run of some of its tasks."""
    tests = (2 * flags.fold, 2 * flags.fold + 1)
    devs = tuple((fold + 2) % 20 for fold in tests)
    trains = [fold for fold in range(20) if fold not in tests + devs]
    domains = ("banking", "hotels") if flags.domain == "all" else (flags.domain,)
    tasks = tuple(task for task in load_settings(f"{RECIPE}:{flags.domain}").tasks if task[0] in names)
    values = {"tasks": tasks, "eval.metric": "+".join(METRICS[name] for name in names)}
    for name, folds in (("train", trains), ("dev", devs), ("test", tests)):
        chosen = ",".join(map(str, folds))
        values[f"data.{name}"] = ";".join(f"{flags.data}/{domain}.jsonl?fold={chosen}" for domain in domains)
    return [f"--config.{key}={value}" for key, value in values.items()] + flags.overrides


def steps(flags: argparse.Namespace) -> None:
    """Prints milliseconds of a step of each run, in turns."""
    run = {
        name: Steps(load_settings(f"{RECIPE}:{flags.domain}", flags_for(flags, tasks)))
        for name, tasks in RUNS.items()
    }
    seconds = {name: [] for name in run}
    for turn in range(flags.turns + 1):
        for name in list(run)[:: 1 if turn % 2 else -1]:
            seconds[name].append(run[name].once(0)[0])
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first one touches memory
    ratios = [a / (b + c) for a, b, c in zip(*seconds.values(), strict=True)]
    medians = {f"{name}_ms": round(1000 * statistics.median(values), 1) for name, values in seconds.items()}
    spread = {"least": round(min(ratios), 3), "largest": round(max(ratios), 3)}
    line = {"part": "steps", "domain": flags.domain, "turns": flags.turns, **medians}
    print(json.dumps(line | {"ratio": round(statistics.median(ratios), 3), **spread}), flush=True)


def quality(flags: argparse.Namespace, seed: int) -> None:
    """Prints scores and costs of a run of each kind."""
    for name, tasks in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                *flags_for(flags, tasks),
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
            found = json.loads(pathlib.Path(folder, "run", "summary.json").read_text())
        line = {"part": "quality", "domain": flags.domain, "run": name, "seed": seed, "steps": found["steps"]}
        line |= {"train_s": round(found["train_s"], 1)}
        line |= {"real_tokens": round(found["real_tokens_per_s"] * found["train_s"])}
        for part in ("dev", "test"):
            line[part] = {METRICS[task]: round(100 * found[part][METRICS[task]], 2) for task in tasks}
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
        steps(flags)
    if "quality" in flags.part:
        for seed in flags.seeds:
            quality(flags, seed)


if __name__ == "__main__":
    main()
