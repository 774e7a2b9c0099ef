"""Batches of images are the same whichever process builds which rows, with or without shards."""

import dataclasses

import numpy as np
import pytest

from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.sharded import make_sharded_loader
from jaxft.data.encoding.encoded import ArraySpec, Placement
from jaxft.data.sources.images.augmentation import Augmentation
from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.mixing import Mixing
from jaxft.data.sources.images.pixel_reader import PixelReader
from jaxft.data.sources.images.preparation import Preparation
from jaxft.data.sources.images.processors import ImageProcessor
from jaxft.data.sources.images.reading import ImageExample
from jaxft.tasks.image_classification.encoding import ImageWindows

PROCESSOR = ImageProcessor.from_hf({"image_processor_type": "ViTImageProcessor", "size": 5})
SPECS = {
    "pixels": ArraySpec(np.float32, "row", (5, 5, 3)),
    "labels": ArraySpec(np.float32, "row", (3,)),
    "weights": ArraySpec(np.float32, "row"),
}


def make_windows(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 9, 8, 3), np.uint8)
    examples = [ImageExample(image, "cat", str(number)) for number, image in enumerate(images)]
    preparation = Preparation(PROCESSOR, Augmentation(crop_scale=0.5, flip=0.5, erasing=0.5))
    targets = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
    reader = PixelReader(examples, targets, preparation, DecodingPool(0), Mixing(0.5, 1.0))
    return ImageWindows(reader, np.arange(count) != 2)


def make_whole(only=None):
    options = {"rows": 4, "max_length": 1, "seed": 5, "arrays": SPECS, "only": only}
    return make_loader(make_windows(10, 0), **options)


def make_sharded(only=None):
    only = np.arange(4) if only is None else only
    every = {0: make_windows(7, 0), 1: make_windows(9, 1)}
    facts = []  # of all shards, as all processes would gather them; each question is asked in the same order

    def gather_all(values):
        facts.append([values[number] for number in sorted(values)])
        return facts[-1]

    options = {"shards": 2, "rows": 4, "max_length": 1, "seed": 5, "arrays": SPECS}
    full = make_sharded_loader(every, gather=gather_all, only=np.arange(4), **options)
    if len(only) == 4:
        return full
    answers = iter(facts)
    windows = {int(only[0]) // 2: every[int(only[0]) // 2]}
    return make_sharded_loader(windows, gather=lambda _: next(answers), only=only, **options)


@pytest.mark.parametrize("make", [make_whole, make_sharded], ids=["one", "shards"])
def test_rows_do_not_depend_on_the_process_that_builds_them(make):
    full, halves = make(), [make(np.arange(2)), make(np.arange(2, 4))]
    epoch = full.steps_per_epoch
    weights = 0
    for step in reversed(range(2 * epoch)):  # in any order, as after a resume
        batch, pieces = full.batch(step), [loader.batch(step) for loader in halves]
        for name, values in batch.arrays.items():
            np.testing.assert_array_equal(values, np.concatenate([piece.arrays[name] for piece in pieces]))
        empty = batch.windows[:, 0] < 0
        assert not batch.arrays["pixels"][empty].any() and not batch.arrays["weights"][empty].any()
        weights += batch.arrays["weights"].sum()
    assert weights == 2 * (
        full.window_count - (2 if make is make_sharded else 1)
    )  # those without a label have none
    first, second = full.batch(0).arrays["pixels"], full.batch(epoch).arrays["pixels"]
    assert not np.array_equal(first, second)


def test_a_slice_may_begin_within_an_image():
    windows = make_windows(4, 0)
    preparation = Preparation(PROCESSOR, views="flip")
    windows = dataclasses.replace(
        windows, reader=dataclasses.replace(windows.reader, preparation=preparation)
    )
    part, numbers = windows.slice(3, 8), np.arange(5)

    def fill(source, first):
        rows = np.arange(len(numbers))
        placement = Placement(numbers + first, rows, rows * 0, rows * 0, rows * 0 + 1)
        return source.fill(placement, SPECS, rows=5, length=1, segments=1)

    expected, filled = fill(windows, 3), fill(part, 0)
    assert expected["weights"].tolist() == [1, 0, 0, 1, 1]  # image 2 has no label
    for name, values in expected.items():
        np.testing.assert_array_equal(filled[name], values)
