"""Evaluates a model on a split; as a command, a run's best weights on any data: `python -m jaxft evaluate`."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.loader import Loader
from jaxft.generation.generator import Generator
from jaxft.generation.options import GenerationOptions
from jaxft.parallel import processes
from jaxft.parallel.mesh import place_batch, replicate_locally
from jaxft.tasks.base import Split
from jaxft.training.setup import Network
from jaxft.training.step import merge_model


def evaluate(
    net: Network, compiled: Mapping[Shape, Any], parameters: dict, split: Split, loader: Loader
) -> tuple[Any, Any]:
    """(metric state, predictions) of a whole split; see `Task.measure` and `Task.collect`."""
    totals = {"loss_sum": 0.0, "weight_sum": 0.0}

    def batches():
        for batch, predictions, sums in predict_batches(net, compiled, parameters, loader):
            for name, value in sums.items():
                totals[name] += value
            yield batch, predictions

    predictions = net.task.collect(split, batches())
    return net.task.measure(split, predictions, **totals), predictions


def write_evaluation(
    net: Network,
    compiled: Mapping[Shape, Any],
    parameters: dict,
    split: Split,
    loader: Loader,
    *,
    folder: Path,
    train: Sequence[Any],
    tokenizer: Any,
    config: ConfigDict,
    console: Console,
    tune: bool = False,
) -> dict[str, float]:
    """Evaluates, writes what there is to read into `folder`, prints the report, and returns the metrics.

    Of several processes the first writes and prints.

    train: examples of the training data, or of parts of it, for tasks that compare with it. Targets of prompts are
    generated too, as `config.eval.generate` says. tune: lets the task choose on this split what it does not learn.
    """
    measured, predictions = evaluate(net, compiled, parameters, split, loader)
    if tune:
        net.task.tune(split, predictions)
    if prompts := net.task.encode_prompts(split.examples[: config.eval.generate], tokenizer, config):
        texts = generate_targets(net, parameters, prompts, tokenizer, config)
        predictions = dataclasses.replace(predictions, generated=texts)
    seen = []
    if net.task.compares_with_train:
        seen = itertools.chain(*processes.gather(net.task.find_seen(split, predictions, train)))
    if not processes.is_main_process():
        return measured.compute()
    return net.task.write_evaluation(
        folder,
        split,
        measured,
        predictions,
        seen=list(seen),
        samples=config.eval.bootstrap,
        seed=config.seed,
        console=console,
    )


def generate_targets(
    net: Network, parameters: dict, prompts: list[list[int]], tokenizer: Any, config: ConfigDict
) -> list[str]:
    """The text that follows each prompt of token ids, up to its end: greedy, or the best of `config.eval.beams`."""
    options = GenerationOptions(max_new_tokens=config.eval.max_new_tokens, beams=config.eval.beams)
    here = replicate_locally(parameters, net.mesh)
    generator = Generator(merge_model(net.graphdef, here).backbone, eos=tokenizer.eos_token_id)
    rows = config.eval.rows
    texts = []  # of each batch; the processes take turns
    for first in range(processes.index() * rows, len(prompts), processes.count() * rows):
        outputs = generator.generate(prompts[first : first + rows], options, first=first)
        texts.append([tokenizer.decode(output.ids, skip_special_tokens=True) for [output] in outputs])
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*processes.gather(texts), fillvalue=()))
    return list(itertools.chain.from_iterable(dealt))


QUEUED = 2  # batches on the device ahead of the one that the host reads


def predict_batches(
    net: Network, compiled: Mapping[Shape, Any], parameters: dict, loader: Loader
) -> Iterator[tuple[Batch, dict[str, np.ndarray], dict[str, float]]]:
    """Predictions of one epoch of `loader`: (batch, outputs on the host, loss sums), in its order.

    compiled: `eval_step`s by batch shape. The device works ahead of the consumer by a bounded number of
    batches, so memory does not grow with the data.
    """
    queue: collections.deque = collections.deque()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        arrays = place_batch(batch.arrays, net.mesh)
        queue.append((batch, *compiled[batch.shape](parameters, arrays)))
        if len(queue) > QUEUED:
            yield _fetch(*queue.popleft())
    while queue:
        yield _fetch(*queue.popleft())


def _fetch(batch, predictions, sums):
    predictions, sums = jax.device_get((predictions, sums))
    return batch, predictions, {name: float(value) for name, value in sums.items()}
