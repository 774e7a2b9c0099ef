"""Measures what it costs to decode and augment JPEG files; prints a table of milliseconds an image.

    python benchmarks/decoding.py [--images 256] [--repeats 9]

The files are generated, 500 x 375 pixels of quality 90, and become images of 224 pixels. "one process" decodes in the
training process, as on one or two cores; "of a worker" is the processor time of the training process while a worker
decodes. Each figure is the median of repeats, whose cases are in turns, and each repeat reads a batch of 32 images.
With mixup, most of their partners are other images, which are decoded too.
"""

import argparse
import dataclasses
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxft.data.sources.images.augmentation import Augmentation
from jaxft.data.sources.images.checking import check_images
from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.mixing import Mixing
from jaxft.data.sources.images.pixel_cache import load_or_decode
from jaxft.data.sources.images.pixel_reader import PixelReader
from jaxft.data.sources.images.preparation import Preparation, Shrinking
from jaxft.data.sources.images.processors import PLAIN_TYPE, ImageProcessor
from jaxft.data.sources.images.reading import ImageExample

WIDTH, HEIGHT, SIZE, EDGE, BATCH = 500, 375, 224, 256, 32
CROPS = Augmentation(crop_scale=0.3, flip=0.5)
CASES = {
    "crop and flip": (CROPS, Mixing()),
    "and RandAugment": (dataclasses.replace(CROPS, rand_augment=2), Mixing()),
    "and colour jitter": (
        dataclasses.replace(CROPS, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        Mixing(),
    ),
    "crop, flip and mixup": (CROPS, Mixing(mixup=0.2)),
}


def make_examples(count: int) -> list[ImageExample]:
    """Returns smooth random images, which compress as photos do, as bytes of JPEG files."""
    rng, examples = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        examples.append(ImageExample(file.getvalue(), None, f"image {number}"))
    return examples


def main() -> None:
    """Measures all cases in turns, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    flags = parser.parse_args()
    examples, targets = make_examples(flags.images), np.zeros(flags.images, np.int32)
    processor = ImageProcessor.from_hf({}, PLAIN_TYPE).with_output_size(SIZE, SIZE)
    main_pool, worker_pool, windows = DecodingPool(0), DecodingPool(1), np.arange(BATCH)
    readers: dict[str, list[PixelReader]] = {}
    for name, (augmentation, mixing) in CASES.items():
        preparation = Preparation(processor, augmentation)
        readers[name] = [
            PixelReader(examples, targets, preparation, pool, mixing) for pool in (main_pool, worker_pool)
        ]
    with tempfile.TemporaryDirectory() as folder:
        checked = check_images(examples, main_pool, name="images")
        cache = load_or_decode(Path(folder), checked, main_pool, Shrinking(EDGE))
        kept = Preparation(processor, CROPS, kept_edge=EDGE)
        name = f"crop and flip, kept with an edge of {EDGE}"
        readers[name] = [
            PixelReader(checked, targets, kept, pool, cache=cache) for pool in (main_pool, worker_pool)
        ]
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
        for epoch in range(flags.repeats + 1):  # the first one starts the worker, and does not count
            for name, (alone, with_worker) in readers.items():
                start = time.perf_counter()
                alone.read(windows, seed=0, epoch=epoch)
                seconds, cpu = time.perf_counter() - start, time.process_time()
                with_worker.read(windows, seed=0, epoch=epoch)
                figures[name].append((seconds, time.process_time() - cpu))
    print("| augmentation | one process | of a worker |\n| --- | ---: | ---: |")
    for name, repeats in figures.items():
        medians = [1e3 * statistics.median(column) / BATCH for column in zip(*repeats[1:], strict=True)]
        print(f"| {name} | {medians[0]:.1f} ms | {medians[1]:.1f} ms |")


if __name__ == "__main__":
    main()
