"""Compares jaxft with a loop of PyTorch on images of 224 pixels, in turns; prints JSON lines.

    python benchmarks/images.py [--models resnet18 vit-tiny] [--steps 20] [--repeats 3] [--record FILE]

Both sides start from the same random weights of transformers, of ResNet-18's or ViT-tiny's size. They train on the same
generated JPEG files of 256 pixels (shapes in colour, 15 labels), with random resized crops and flips, 32 images a step,
AdamW and the same rates. The peer is torch_images.py, next to this script. Speeds are images per second of the training
loop alone, with decoding. The last line of a model has the ratios of speeds, the accuracy on dev of each run, and the
mean loss of each tenth of the steps, by side. Predicted before the first measurement: at least 1.0 times the peer's
speed, for convolutions are as quick there.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from side_by_side import print_line, recorded, run_jaxft, run_peer
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from jaxft.data.demo.images import generate_records

IMAGES, RATE, PREDICTED = 32, 1e-3, 1.0  # images a step; the learning rate; the least ratio of speeds
SIDE, SIZE = 256, 224  # pixels of the files, and of the model's images
SIDES = ("jaxft", "peer")
RESNET_18 = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
VIT_TINY = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}


def make_model(name: str, labels: Sequence[str], folder: Path) -> Path:
    """Writes a checkpoint with random weights, and returns its folder."""
    sizes = {"id2label": dict(enumerate(labels)), "image_size": SIZE}
    model: PreTrainedModel
    if name == "resnet18":
        model = ResNetForImageClassification(ResNetConfig(**RESNET_18, **sizes))
    else:
        model = ViTForImageClassification(ViTConfig(**VIT_TINY, **sizes))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def write_images(split: str, folder: Path) -> Path:
    """Writes the images of a split of `demo:shapes`, a folder for each label, and returns the folder."""
    for number, (_, _, record) in enumerate(generate_records(f"demo:shapes/{split}")):
        path = folder / record["label"] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record["image"]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def measure(
    side: str, model: Path, train: Path, dev: Path, steps: int, seed: int, folder: Path
) -> dict[str, object]:
    """Trains one side; returns its speed, peak memory, accuracy and losses."""
    if side == "peer":
        options = {"model": model, "train": train, "eval": dev, "bs": IMAGES, "lr": RATE}
        line = run_peer(
            str(Path(__file__).with_name("torch_images.py")), options | {"steps": steps, "seed": seed}
        )
        return {name: line[name] for name in ("images_per_s", "train_s", "accuracy", "losses")} | {
            "peak_mb": line["peak_rss_mb"]
        }
    settings = {
        "model.checkpoint": model,
        "data.train": train,
        "data.dev": dev,
        "data.image_size": SIZE,
        "batch.rows": IMAGES,
        "augment.crop_scale": 0.3,
        "augment.flip": 0.5,
        "optim.lr": RATE,
        "optim.schedule": "linear",
        "train.steps": steps,
        "eval.every_steps": 10**6,
        "eval.bootstrap": 0,
        "log.every_steps": 1,
        "seed": seed,
    }
    workdir = folder / f"run-{model.name}-{seed}"
    summary = run_jaxft("images:resnet50", settings | {"optim.freeze": "()"}, workdir)
    history = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {
        "images_per_s": round(summary["real_images_per_s"], 2),
        "train_s": round(summary["train_s"], 1),
        "accuracy": round(summary["dev"]["accuracy"], 4),
        "losses": [round(line["loss"], 4) for line in history if line["kind"] == "train"],
        "peak_mb": round(summary["peak_rss_bytes"] / 2**20),
        "late_compiles": summary["late_compiles"],
    }


def average_tenths(losses: Sequence[float]) -> list[float]:
    """Returns the mean of each tenth of some losses."""
    size = max(1, len(losses) // 10)
    return [round(statistics.mean(losses[first : first + size]), 3) for first in range(0, len(losses), size)]


def main() -> None:
    """Parses the flags, and compares model by model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=["resnet18", "vit-tiny"], default=["resnet18", "vit-tiny"]
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, help="file of the runs that are done")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, dev = (write_images(split, folder / split) for split in ("train", "dev"))
        labels = sorted(path.name for path in train.iterdir())
        for model in flags.models:
            checkpoint = make_model(model, labels, folder / model)
            lines: dict[str, list[dict]] = {side: [] for side in SIDES}
            for repeat, side in itertools.product(range(flags.repeats), SIDES):
                key = {"model": model, "side": side, "repeat": repeat, "steps": flags.steps}

                def measure_run(
                    side: str = side, repeat: int = repeat, checkpoint: Path = checkpoint
                ) -> dict[str, object]:
                    return measure(side, checkpoint, train, dev, flags.steps, repeat, folder)

                lines[side].append(recorded(flags.record, key, measure_run))
            rates = {side: [line["images_per_s"] for line in lines[side]] for side in SIDES}
            ratios = [ours / theirs for ours, theirs in zip(rates["jaxft"], rates["peer"], strict=True)]
            print_line(
                result="speed",
                model=model,
                images_per_s=rates,
                ratios=[round(ratio, 2) for ratio in ratios],
                median_ratio=round(statistics.median(ratios), 2),
                predicted=PREDICTED,
                holds=statistics.median(ratios) >= PREDICTED,
                accuracy={side: [line["accuracy"] for line in lines[side]] for side in SIDES},
                losses={side: [average_tenths(line["losses"]) for line in lines[side]] for side in SIDES},
            )


if __name__ == "__main__":
    main()
