"""The answer for an image is the mean of the logits of its views; errors are listed with the surest first."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.pixel_reader import PixelReader
from jaxft.data.sources.images.preparation import Preparation
from jaxft.data.sources.images.processors import ImageProcessor
from jaxft.data.sources.images.reading import ImageExample
from jaxft.tasks.base import Split
from jaxft.tasks.image_classification.encoding import ImageWindows
from jaxft.tasks.image_classification.evaluation import ImageEvaluator
from jaxft.training.settings import settings_from_config

LABELS = ["cat", "dog", "owl"]
PROCESSOR = ImageProcessor.from_hf({"image_processor_type": "ViTImageProcessor", "size": 5})
GOLD = ["cat", "dog", "dog", "owl", "cat"]


@pytest.fixture
def evaluator():
    return ImageEvaluator(
        LABELS, settings_from_config({"task": "image_classification", "eval.views": "flip"})
    )


@pytest.fixture
def split():
    pixels = np.zeros((6, 6, 3), np.uint8)
    examples = [ImageExample(pixels, label, f"photo {number}") for number, label in enumerate(GOLD)]
    targets = np.eye(3, dtype=np.float32)[[LABELS.index(label) for label in GOLD]]
    reader = PixelReader(examples, targets, Preparation(PROCESSOR, views="flip"), DecodingPool(0))
    return Split("dev", "photos", examples, ImageWindows(reader, np.ones(len(GOLD), bool)))


def test_the_logits_of_views_are_averaged_wherever_they_stand_in_batches(evaluator, split):
    logits = np.random.default_rng(0).normal(0, 3, (2 * len(GOLD), len(LABELS)))  # two views of each image
    order = np.array([7, 0, 3, 9, -1, 5, 1, 8, 2, 4, 6, -1]).reshape(3, 4, 1)  # -1 is a row without an image
    outputs = [(SimpleNamespace(windows=windows), {"logits": logits[windows]}) for windows in order]
    means = logits.reshape(len(GOLD), 2, len(LABELS)).mean(axis=1)
    expected = np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(evaluator.collect(split, iter(outputs)), expected, rtol=1e-12)


def test_errors_are_listed_with_the_surest_first(evaluator, split, tmp_path):
    scores = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    state = evaluator.measure(split, scores, 1.0, 5.0)
    console = Console(file=io.StringIO())
    evaluator.write_evaluation(tmp_path, split, state, scores, seen=[], samples=0, seed=0, console=console)
    with open(tmp_path / "errors/dev.tsv", newline="") as file:
        errors = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["gold"], row["predicted"], float(row["score"]), row["image"]) for row in errors] == [
        ("cat", "dog", 0.8, "photo 4"),
        ("dog", "owl", 0.7, "photo 2"),
        ("dog", "cat", 0.6, "photo 1"),
        ("owl", "cat", 0.5, "photo 3"),
    ]
