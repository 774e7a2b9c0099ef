"""Draws the pictures of the documentation into docs/pictures: `make pictures`, ten minutes on two cores.

    python docs/pictures.py [--folder FOLDER] [--only NAME...]

architecture                      the way of a run through the folders of jaxft
packed_row                        rows of sentences of `demo:ner`, packed as for training, and the attention mask
learning_curve, confusion_matrix  a run of 60 steps of the recipe `intent`
plan                              `jaxft plan --sweep`, BERT-base on a TPU slice of 4 chips; needs libtpu

With the same versions of packages the files are the same, apart from what the machine's arithmetic changes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
COLORS = ["#4878a8", "#e49444", "#85b6b2", "#d1615d", "#6a9f58", "#a87c9f", "#967662"]
GRAY, LIGHT, DARK = "#b8b8b8", "#f2f2f2", "#333333"
RUN = ("train", "--config", "intent", "--config.train.steps=60", "--config.eval.every_steps=10")
PLAN = (
    *("plan", "--config", "ner", "--config.model.checkpoint=new:bert", "--rows_per_device", "32"),
    *("--topology", "v5e:2x2", "--sweep", "--json"),
)


def run_jaxft(*arguments: str) -> str:
    """Returns what a command of jaxft prints."""
    environment = (
        os.environ | {"PYTHONPATH": str(DOCS.parent / ".venv/libtpu")} if arguments == PLAN else None
    )
    command = [sys.executable, "-m", "jaxft", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def draw_architecture() -> Figure:
    """Draws what a run does, left to right, with the folders that do it."""
    figure, axes = plt.subplots(figsize=(8, 2.9))
    axes.set(xlim=(0, 10.2), ylim=(0, 3.6))
    axes.axis("off")

    def box(x: float, y: float, title: str, folder: str, color: str) -> None:
        patch = matplotlib.patches.FancyBboxPatch(
            (x, y), 1.6, 0.8, boxstyle="round,pad=0.05", facecolor=color, edgecolor="none"
        )
        axes.add_patch(patch)
        axes.text(x + 0.8, y + 0.5, title, ha="center", va="center", color="white", fontsize=9, weight="bold")
        axes.text(x + 0.8, y + 0.2, folder, ha="center", va="center", color="white", fontsize=6.5)

    def arrow(start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": DARK})
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x, y + 0.12, text, ha="center", fontsize=6.5, color=DARK)

    row = [
        ("files", "data/sources", COLORS[0]),
        ("windows", "data/encoding", COLORS[0]),
        ("packed rows", "data/batching", COLORS[0]),
        ("step", "training, models", COLORS[1]),
        ("best weights", "training/run_folder", COLORS[1]),
    ]
    for number, (title, folder, color) in enumerate(row):
        box(0.1 + 2.1 * number, 2.4, title, folder, color)
        if number:
            arrow((2.1 * number - 0.3, 2.8), (2.1 * number + 0.05, 2.8))
    for number, (title, folder) in enumerate(
        [
            ("evaluate", "inference, metrics"),
            ("predict", "inference"),
            ("generate", "generation"),
            ("export", "export"),
        ]
    ):
        x = 2.2 + 2.1 * number
        box(x, 0.3, title, folder, COLORS[4])
        axes.plot([x + 0.8, x + 0.8], [1.2, 1.7], color=DARK, linewidth=1)
        arrow((x + 0.8, 1.5), (x + 0.8, 1.15))
    axes.plot([3, 9.3], [1.7, 1.7], color=DARK, linewidth=1)
    axes.plot([9.3, 9.3], [1.7, 2.35], color=DARK, linewidth=1)
    axes.text(0.1, 1.7, "tasks/ and config/ say\nwhat each of them does", fontsize=7, color=DARK, va="center")
    return figure


def draw_packed_row() -> Figure:
    """Draws four rows of the first batch of `demo:ner`, in rows of 64, and the attention mask of the first row."""
    from jaxft.data.batching.choice import make_loader
    from jaxft.tasks.registry import make_data
    from jaxft.training.settings import settings_from_config

    values = {"task": "token_classification", "data.train": "demo:ner/train", "data.max_length": 64}
    settings = settings_from_config(values)
    data = make_data(settings)
    sentences = data.read("train", settings.data.train, lambda line: None)[:400]
    labels = data.make_labels(data.find_labels(sentences))
    windows = data.encode(sentences, labels, data.open_model(()).processor, cached=False)
    loader = make_loader(windows, rows=4, max_length=64, block_length=0)
    segments = loader.batch(0).arrays["segment_ids"]

    colors = ListedColormap([LIGHT, *COLORS])
    shown = np.where(segments > 0, (segments - 1) % len(COLORS) + 1, 0)
    figure, (rows, mask) = plt.subplots(1, 2, figsize=(8, 2.9), width_ratios=(1.9, 1), layout="constrained")
    rows.pcolormesh(shown, cmap=colors, vmin=0, vmax=len(COLORS), rasterized=True)
    for edge in range(1, 4):
        rows.axhline(edge, color="white", linewidth=4)
    rows.invert_yaxis()
    rows.set(xlabel="slot", yticks=[0.5, 1.5, 2.5, 3.5], yticklabels=["row 0", "row 1", "row 2", "row 3"])
    rows.set_title("four rows of 64 slots: a color for each sentence, gray for padding")
    first = segments[0]
    same = (first[:, None] == first[None, :]) & (first[:, None] > 0)
    mask.pcolormesh(
        np.where(same, shown[0][:, None], 0), cmap=colors, vmin=0, vmax=len(COLORS), rasterized=True
    )
    mask.invert_yaxis()
    mask.set(xlabel="token attended to", ylabel="token of row 0", aspect="equal")
    mask.set_title("attention mask of row 0")
    for axes in (rows, mask):
        remove_frame(axes)
    return figure


def draw_learning_curve(run: Path) -> Figure:
    """Draws loss and accuracy from `metrics.jsonl` of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    dev = [line for line in lines if line["kind"] == "dev"]
    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    axes.plot([line["step"] for line in train], [line["loss"] for line in train], color=COLORS[0])
    axes.plot([line["step"] for line in dev], [line["loss"] for line in dev], "o", color=COLORS[0])
    axes.set(xlabel="step", xlim=(0, None), ylim=(0, None))
    axes.set_ylabel("loss: train (line), dev (dots)", color=COLORS[0])
    remove_frame(axes)
    right = axes.twinx()
    right.plot(
        [line["step"] for line in dev], [100 * line["accuracy"] for line in dev], "s--", color=COLORS[1]
    )
    right.set_ylim(0, 103)
    right.set_ylabel("accuracy on dev, %", color=COLORS[1])
    remove_frame(right)
    return figure


def draw_confusion_matrix(run: Path) -> Figure:
    """Draws the confusion matrix from `eval/dev.json` of a run."""
    measured = json.loads((run / "eval/dev.json").read_text())
    labels, counts = measured["confusion"]["labels"], np.array(measured["confusion"]["counts"])
    figure, axes = plt.subplots(figsize=(6, 4.6), layout="constrained")
    axes.pcolormesh(counts, cmap="Blues", vmax=1.5 * counts.max(), edgecolors="white", rasterized=True)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=7, color=DARK)
    ticks = np.arange(len(labels)) + 0.5
    axes.set_xticks(ticks, labels, rotation=40, ha="right")
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set(xlabel="predicted", ylabel="gold", aspect="equal")
    remove_frame(axes)
    return figure


def draw_plan() -> Figure:
    """Draws memory, communication and roofline time of the meshes that a plan compares."""
    estimates = json.loads(run_jaxft(*PLAN))["plans"]
    names = [
        " x ".join(str(estimate["mesh"][axis]) for axis in ("data", "fsdp", "tensor"))
        for estimate in estimates
    ]
    figure, panels = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True, layout="constrained")
    for axes, title, values, color in zip(
        panels,
        ("peak, GiB a chip", "sent in a step, MiB a chip", "roofline, ms"),
        (
            [estimate["peak_bytes_per_device"] / 2**30 for estimate in estimates],
            [estimate["collective_bytes_per_device"] / 2**20 for estimate in estimates],
            [1e3 * estimate["roofline_s"] for estimate in estimates],
        ),
        COLORS,
        strict=False,
    ):
        bars = axes.barh(names, values, color=color)
        axes.bar_label(bars, fmt="{:,.3g}" if max(values) < 100 else "{:,.0f}", padding=2, fontsize=7)
        axes.set_xlim(0, 1.25 * max(values))
        axes.set_xticks([])
        axes.set_title(title)
        remove_frame(axes)
    panels[0].invert_yaxis()
    panels[0].set_ylabel("data x fsdp x tensor")
    return figure


def remove_frame(axes: Axes) -> None:
    """Removes the frame of a picture."""
    for side in axes.spines.values():
        side.set_visible(False)


def main() -> None:
    """Draws the pictures that the arguments name."""
    names = ("architecture", "packed_row", "learning_curve", "confusion_matrix", "plan")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DOCS / "pictures")
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    flags = parser.parse_args()
    plt.rcParams.update(
        {
            "svg.hashsalt": "jaxft",
            "svg.fonttype": "none",
            "font.size": 8,
            "axes.titlesize": 8,
            "savefig.facecolor": "white",
        }
    )
    draw = {"architecture": draw_architecture, "packed_row": draw_packed_row, "plan": draw_plan}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if {"learning_curve", "confusion_matrix"} & set(flags.only):
            run_jaxft(*RUN, "--workdir", str(run), "--config.log.every_steps=2")
        draw["learning_curve"] = lambda: draw_learning_curve(run)
        draw["confusion_matrix"] = lambda: draw_confusion_matrix(run)
        for name in flags.only:
            path = flags.folder / f"{name}.svg"
            draw[name]().savefig(path, metadata={"Date": None}, bbox_inches="tight")
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
