"""The doors of the program that the fuzzer knocks at. Behind each, damage is read rightly or refused by `UserError`."""

import copy
import dataclasses
import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from jaxft.config.settings import flatten
from jaxft.data.encoding.cache import load_or_encode
from jaxft.data.sources.images.decoding import SUFFIXES
from jaxft.data.sources.images.processors import PLAIN_TYPE, ImageProcessor
from jaxft.hub.processors import TextProcessor
from jaxft.inference import answering, predict
from jaxft.inference.model import open_model
from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import TASKS, make_data, make_task, schema_of
from jaxft.training.loop import train
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings, settings_from_config
from tests.data.tiny_text import tokenizer
from tests.fuzz.mutations import VALUES, damage
from tests.fuzz.samples import write_samples
from tests.fuzz.tiny_bert import write_tiny_bert

# Settings whose numbers are bounded where they are read: durations, and fields of a model's config.json.
BOUNDED_LATER = ("optim.warmup", "model.sizes")

Trial = Callable[[random.Random, Path], None]  # raises what the program raises


def ignore(line: str) -> None:
    """Takes a line of the log."""
    line.encode("utf-8", "surrogatepass")


def copy_damaged(source: Path, folder: Path, rng: random.Random) -> Path:
    """Copies a file into `folder`, and damages the copy."""
    target = folder / source.name
    target.write_bytes(damage(source.read_bytes(), rng))
    return target


def copy_folder_damaged(source: Path, target: Path, rng: random.Random) -> None:
    """Copies a folder. In the copy one file is damaged, missing or a folder."""
    shutil.copytree(source, target)
    paths = sorted(path for path in target.rglob("*") if path.is_file())
    path = rng.choice(paths + 2 * [path for path in paths if path.name == "config.json"])
    if (kind := rng.random()) < 0.9:
        path.write_bytes(damage(path.read_bytes(), rng))
        return
    path.unlink()
    if kind > 0.95:
        path.mkdir()


def assert_is_text(value: Any) -> None:
    """Raises if a string in `value` is none that a file could hold."""
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, list | tuple):
        for item in value:
            assert_is_text(item)
    elif dataclasses.is_dataclass(value):
        assert_is_text([getattr(value, field.name) for field in dataclasses.fields(value)])


def assert_can_be_counted(value: Any) -> None:
    """Raises if a number in `value` is infinite in float32, or a count that is larger than a device can count."""
    if isinstance(value, float):
        assert abs(value) <= np.finfo(np.float32).max, value
    elif isinstance(value, int):
        assert abs(value) < 2**32, value
    elif isinstance(value, list | tuple):
        for item in value:
            assert_can_be_counted(item)


@functools.cache
def tokenizer_with_mask() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of tiny texts with a mask token, without which masked texts would all be refused."""
    copied = copy.deepcopy(tokenizer())
    copied.add_special_tokens({"mask_token": "[MASK]"})
    return copied


def read_data(task: str, samples: list[Path]) -> Trial:
    """Returns the trial that reads and encodes a damaged file as a task does."""

    def trial(rng: random.Random, folder: Path) -> None:
        path = copy_damaged(rng.choice(samples), folder, rng)
        if task == "image_classification":
            decode_images(path, samples[0], rng)
            return
        values = {"task": task, "data.max_length": 16}
        if rng.random() < 0.2 and task == "sequence_classification":
            kinds = ("multi_label_classification", "regression")
            values["model.problem_type"] = rng.choice(kinds)
        data = make_data(settings_from_config(values))
        examples = data.read("train", str(path), ignore)
        labels = data.make_labels(data.find_labels(examples))
        assert_is_text(labels)
        assert_is_text(examples)
        json.dumps(labels, allow_nan=False)
        if task == "causal_lm":
            return
        windows = data.encode(examples, labels, TextProcessor(tokenizer_with_mask()), cached=False)
        assert len(windows) >= 1

    return trial


def decode_images(path: Path, undamaged: Path, rng: random.Random) -> None:
    """Reads a table of images, or an image next to one without damage, and decodes all for training."""
    if path.suffix.lower().endswith(SUFFIXES):
        rows = [{"image": str(path), "label": "cat"}, {"image": str(undamaged), "label": "dog"}]
        path = path.with_suffix(".jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "task": "image_classification",
        "data.image_size": 8,
        "data.workers": 0,
        "data.max_pixels": 1_000_000,
        "data.cache_dir": "off",
        "data.broken": rng.choice(["refuse", "skip"]),
        "augment.crop_scale": 0.1,
    }
    data = make_data(settings_from_config(values))
    examples = data.read("train", str(path), ignore)
    labels = data.make_labels(data.find_labels(examples))
    assert_is_text(labels)
    processor = ImageProcessor.from_hf({"size": 8}, PLAIN_TYPE)
    for windows in (data.encode(examples, labels, processor), data.encode_train(examples, labels, processor)):
        pixels, targets = windows.reader.read(np.arange(len(windows)), seed=0, epoch=0)
        assert pixels.shape == (len(examples), 8, 8, 3) and targets.sum() == len(examples)


def change_settings(rng: random.Random, folder: Path) -> None:
    """Loads a recipe with values that cannot be."""
    task = rng.choice(list(TASKS))
    keys = sorted(schema_of(task).declarations)
    overrides = []
    for key in rng.sample(keys, rng.randint(1, 3)):
        value = rng.choice(VALUES)
        text = value if isinstance(value, str) else json.dumps(value)
        if rng.random() < 0.3:
            text = f"kernel={text}"  # for settings that are pairs
        overrides.append(f"--config.{key}={text}")
    recipe = {
        "token_classification": "ner",
        "causal_lm": "lm",
        "masked_lm": "mlm",
        "question_answering": "qa",
        "multi_task": "nlupp",
    }
    settings = load_settings(f"configs/{recipe.get(task, 'sentiment')}.py", overrides)
    values = flatten(settings)
    assert_can_be_counted([values[key] for key in values if key not in BOUNDED_LATER])


def open_model_folder(sample: Path) -> Trial:
    """Returns the trial that opens a model folder in which one file is damaged."""

    def trial(rng: random.Random, folder: Path) -> None:
        copy_folder_damaged(sample, folder / "model", rng)
        values = {
            "task": "token_classification",
            "model.checkpoint": str(folder / "model"),
            "data.max_length": 16,
        }
        config = settings_from_config(values)
        model = make_data(config).open_model(())
        task = make_task(["O", "B-X", "I-X"], config, head_dropout=0.1)
        network = make_network(task, *resolve_model(config, model.hf_config), make_mesh(config))
        initial_parameters(network, config, model)

    return trial


def train_tiny_run(folder: Path, samples: Path, model: Path) -> Path:
    """Trains some steps; returns the run's folder."""
    values = {
        "task": "token_classification",
        "model.checkpoint": str(model),
        "data.train": str(samples),
        "data.dev": str(samples),
        "data.max_length": 16,
        "data.cache_dir": "off",
        "batch.rows": 4,
        "train.steps": 2,
        "eval.rows": 4,
        "eval.bootstrap": 0,
        "log.tensorboard": False,
    }
    train(settings_from_config(values), folder / "run")
    return folder / "run"


def open_run_folder(run: Path) -> Trial:
    """Returns the trial that opens a run's folder in which one file is damaged: its best weights are the same."""
    expected = jax.tree.leaves(open_model(open_run(run), ignore).parameters)

    def trial(rng: random.Random, folder: Path) -> None:
        copy_folder_damaged(run, folder / "run", rng)
        weights = jax.tree.leaves(open_model(open_run(folder / "run"), ignore).parameters)
        assert all(map(np.array_equal, weights, expected))

    return trial


def predict_file(run: Path, samples: list[Path]) -> Trial:
    """Returns the trial that predicts for a damaged file."""
    model = open_model(open_run(run), ignore)

    def trial(rng: random.Random, folder: Path) -> None:
        path, output = copy_damaged(rng.choice(samples), folder, rng), folder / "output"
        on_error = rng.choice(["stop", "record"])
        with mock.patch.object(answering, "open_model", lambda *_: model):
            predict.predict_file(run, str(path), str(output), on_error=on_error, log=ignore)
        output.read_bytes().decode("utf-8")

    return trial


def damage_cache(sample: Path) -> Trial:
    """Returns the trial that reads a damaged cache of encoded text: the windows are the same in the end."""
    config = settings_from_config({"task": "token_classification", "data.max_length": 16})
    data = make_data(config)
    examples = data.read("train", str(sample), ignore)
    labels = data.make_labels(data.find_labels(examples))
    windows = data.encode(examples, labels, TextProcessor(tokenizer()), cached=False)

    def trial(rng: random.Random, folder: Path) -> None:
        path = folder / "text.arrow"
        load_or_encode(path, lambda: {range(1): lambda: [windows]})
        path.write_bytes(damage(path.read_bytes(), rng))
        loaded = load_or_encode(path, lambda: {range(1): lambda: [windows]})
        assert loaded.record_batch.equals(windows.record_batch)

    return trial


def make_targets(folder: Path) -> dict[str, Trial]:
    """Returns the trials by name. They write what they need into `folder`."""
    jax.config.update("jax_platforms", "cpu")
    samples = write_samples(folder / "samples")
    model = write_tiny_bert(folder / "model")
    run = train_tiny_run(folder, samples["token_classification"][0], model)
    targets = {f"data of {task}": read_data(task, paths) for task, paths in samples.items()}
    return targets | {
        "settings": change_settings,
        "model folder": open_model_folder(model),
        "run folder": open_run_folder(run),
        "predict": predict_file(run, samples["token_classification"]),
        "cache": damage_cache(samples["token_classification"][0]),
    }
