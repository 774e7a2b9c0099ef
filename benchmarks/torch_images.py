"""Fine-tunes an image classifier by a loop of PyTorch with transforms of Pillow; prints one JSON line.

    python benchmarks/torch_images.py --model FOLDER --train FOLDER --eval FOLDER [--steps 20] [--bs 32] [--lr 1e-3]

It is the peer of `benchmarks/images.py`: the model of transformers, its processor of Pillow for evaluation, and in
training a random resized crop and a flip, decoded in the loop's process as jaxft does on two cores. AdamW, its warmup
and the linear fall of the rate are the Trainer's, without the Trainer's bookkeeping.
"""

import argparse
import itertools
import json
import math
import random
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, get_linear_schedule_with_warmup

Sample = tuple[Path, int]  # a file and the number of its label


def list_samples(folder: Path) -> list[Sample]:
    """Returns the files of a folder with a folder for each label."""
    labels = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(file, number) for number, label in enumerate(labels) for file in sorted(label.iterdir())]


def crop_at_random(image: Image.Image, size: int, least_share: float) -> Image.Image:
    """Returns a random resized crop, as torchvision's RandomResizedCrop, flipped half of the time."""
    width, height = image.size
    box = (0, 0, width, height)
    for _ in range(10):
        area = width * height * random.uniform(least_share, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            box = (left, top, left + w, top + h)
            break
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def draw_batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Yields batches without end, in another order in each epoch."""
    while True:
        order = random.sample(samples, len(samples))
        yield from (order[first : first + size] for first in range(0, len(order) - size + 1, size))


def main() -> None:
    """Parses the flags, trains and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "train", "eval"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--crop-scale", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    random.seed(flags.seed)
    torch.manual_seed(flags.seed)
    processor = AutoImageProcessor.from_pretrained(flags.model, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(flags.model).train()
    size = model.config.image_size
    mean, std = (np.array(values, np.float32) for values in (processor.image_mean, processor.image_std))

    def read_batch(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        images = (Image.open(path).convert("RGB") for path, _ in samples)
        pixels = [np.asarray(crop_at_random(image, size, flags.crop_scale), np.float32) for image in images]
        normal = (np.stack(pixels) / 255 - mean) / std
        labels = torch.tensor([label for _, label in samples])
        return torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2))), labels

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=flags.lr)
    schedule = get_linear_schedule_with_warmup(optimizer, flags.steps // 10, flags.steps)
    losses, began = [], time.perf_counter()
    for batch in itertools.islice(draw_batches(list_samples(flags.train), flags.bs), flags.steps):
        pixels, labels = read_batch(batch)
        loss = torch.nn.functional.cross_entropy(model(pixels).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(round(loss.item(), 4))
    seconds = time.perf_counter() - began

    model.eval()
    samples = list_samples(flags.eval)
    correct = 0
    for first in range(0, len(samples), flags.bs):
        batch = samples[first : first + flags.bs]
        inputs = processor([Image.open(path).convert("RGB") for path, _ in batch], return_tensors="pt")
        with torch.inference_mode():
            predicted = model(**inputs).logits.argmax(-1).tolist()
        correct += sum(label == number for (_, label), number in zip(batch, predicted, strict=True))
    line = {
        "images_per_s": round(flags.steps * flags.bs / seconds, 2),
        "train_s": round(seconds, 1),
        "accuracy": round(correct / len(samples), 4),
        "losses": losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
