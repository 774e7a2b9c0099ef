"""Compares tasks with few labels from MiniLM, and from MiniLM that filled masks in the domain; prints JSON lines.

    python benchmarks/domain_adaptation.py --data DIR --workdir DIR [--masks_lr 1e-4] [--seeds 0 1 2]

DIR of the data has banking77/{train,test}.csv and wnut17/{train,dev}.conll. The text of the training files, without
labels, trains a masked language model for two epochs (seed 0). Then each seed draws few examples, 3 of each of the 77
intents or 300 sentences with names, trains on them from both starts with the same settings, and measures the weights of
the last step on all of test.csv or dev.conll. The same command goes on with runs that are not finished.
"""

import argparse
import csv
import itertools
import json
import pathlib
import random
import statistics

from jaxft.training.loop import train
from jaxft.training.settings import load_settings

RECIPES = pathlib.Path(__file__).resolve().parents[1] / "configs"
# Only the last step is evaluated, so that no weights are selected on the set that measures them.
ALWAYS = ("eval.every_steps=1000000", "eval.bootstrap=0", "log.tensorboard=False")
MASKS = ("train.epochs=2", "data.max_length=64", "batch.rows=8", "data.dev_fraction=0.05")
TASKS = {
    "intents": ("intent.py:banking77", "accuracy", ("train.epochs=15", "optim.lr=5e-4", "model.pool=mean")),
    "names": ("ner.py:wnut17", "entity_f1", ("train.epochs=15", "optim.lr=3e-4")),
}


def write_intents(data: pathlib.Path, folder: pathlib.Path, seeds: list[int]) -> pathlib.Path:
    """Writes the texts of Banking77, and for each seed a file of few examples; returns the file to measure on."""
    with open(data / "banking77/train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = (" ".join(row["text"].split()) for row in rows)
    (folder / "intents.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    labels = sorted({row["category"] for row in rows})
    for seed in seeds:
        draw = random.Random(seed)
        with open(folder / f"intents{seed}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            for label in labels:
                writer.writerows(draw.sample([row for row in rows if row["category"] == label], 3))
    return data / "banking77/test.csv"


def write_names(data: pathlib.Path, folder: pathlib.Path, seeds: list[int]) -> pathlib.Path:
    """Writes the texts of WNUT-17, and for each seed a file of few sentences; returns the file to measure on."""
    lines = (data / "wnut17/train.conll").read_text(encoding="utf-8").splitlines()
    groups = itertools.groupby(lines, key=lambda line: bool(line.strip()))
    sentences = [list(sentence) for is_sentence, sentence in groups if is_sentence]
    words = (" ".join(line.partition("\t")[0] for line in sentence) for sentence in sentences)
    (folder / "names.txt").write_text("".join(f"{text}\n" for text in words), encoding="utf-8")
    for seed in seeds:
        drawn = random.Random(seed).sample(sentences, 300)
        text = "".join("\n".join(sentence) + "\n\n" for sentence in drawn)
        (folder / f"names{seed}.conll").write_text(text, encoding="utf-8")
    return data / "wnut17/dev.conll"


def run(recipe: str, workdir: pathlib.Path, *changes: str) -> dict[str, float]:
    """Trains, and returns the metrics of dev."""
    flags = [f"--config.{change}" for change in (*ALWAYS, *changes)]
    return train(load_settings(f"{RECIPES}/{recipe}", flags), workdir)["dev"]


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of banking77 and wnut17")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder for files and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument(
        "--masks_lr", type=float, default=1e-4, help="learning rate of the masked model; default 1e-4"
    )
    flags = parser.parse_args()
    masks_lr = f"optim.lr={flags.masks_lr}"
    flags.workdir.mkdir(parents=True, exist_ok=True)
    for task in flags.tasks:
        recipe, metric, settings = TASKS[task]
        write = {"intents": write_intents, "names": write_names}[task]
        measured_on = write(flags.data, flags.workdir, flags.seeds)
        domain = flags.workdir / f"masks-{task}"
        masks = run("mlm.py:offline", domain, f"data.train={flags.workdir / task}.txt", masks_lr, *MASKS)
        scores: dict[str, list[float]] = {}
        for seed in flags.seeds:
            [few] = flags.workdir.glob(f"{task}{seed}.*")
            data = (f"data.train={few}", f"data.dev={measured_on}", "data.test=none", f"seed={seed}")
            for start, change in (("plain", ()), ("adapted", (f"model.checkpoint=run:{domain}",))):
                dev = run(recipe, flags.workdir / f"{task}-{start}-{seed}", *data, *settings, *change)
                scores.setdefault(start, []).append(round(100 * dev[metric], 2))
        gains = [adapted - plain for plain, adapted in zip(*scores.values(), strict=True)]
        line = {"task": task, "metric": metric, **scores, "gain": round(statistics.mean(gains), 2)}
        print(json.dumps(line | {"masks_perplexity": round(masks["perplexity"], 2)}), flush=True)


if __name__ == "__main__":
    main()
