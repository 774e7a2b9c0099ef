"""Evaluates a model on a split: predicts, measures, and writes files and a report."""

import collections
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxft.adapters.plan import merge_adapters
from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, Batches, Shape
from jaxft.generation.generator import Generator
from jaxft.generation.options import GenerationOptions
from jaxft.hub.processors import Processor, tokenizer_of
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.parallel import processes
from jaxft.parallel.mesh import place_batch, replicate_locally
from jaxft.tasks.base import (
    Arrays,
    Encoding,
    Evaluator,
    Example,
    Json,
    Outputs,
    Predictions,
    Split,
    State,
)
from jaxft.training.batch_rows import choose_eval_rows
from jaxft.training.network import Network
from jaxft.training.step import merge_model
from jaxft.training.train_state import Parameters

QUEUED_BATCHES = 2  # the number of batches by which the device may be ahead of the host


def evaluate(
    net: Network,
    evaluator: Evaluator[Example, Encoding, Predictions, State],
    compiled: Mapping[Shape, Any],
    parameters: Parameters,
    split: Split[Example, Encoding],
    loader: Batches,
) -> tuple[State, Predictions]:
    """Predicts and measures a split.

    Args:
      net: the model.
      evaluator: collects and measures the predictions.
      compiled: the compiled `eval_step`s by batch shape.
      parameters: the parameters by path.
      split: the split, with windows.
      loader: the split's batches, which contain each window once.

    Returns:
      The metric state of `Evaluator.measure` and the predictions of `Evaluator.collect`.
    """
    totals = {"loss_sum": 0.0, "weight_sum": 0.0}

    def outputs() -> Outputs:
        for batch, predictions, sums in predict_batches(net, compiled, parameters, loader):
            for name, value in sums.items():
                totals[name] += value
            yield batch, predictions

    predictions = evaluator.collect(split, outputs())
    return evaluator.measure(split, predictions, **totals), predictions


def write_evaluation(
    net: Network,
    evaluator: Evaluator[Example, Encoding, Predictions, State],
    compiled: Mapping[Shape, Any],
    parameters: Parameters,
    split: Split[Example, Encoding],
    loader: Batches,
    *,
    folder: Path,
    train: Sequence[Example],
    processor: Processor,
    config: Settings,
    console: Console,
    tune: bool = False,
) -> dict[str, float]:
    """Evaluates, writes the results into `folder`, prints the report, and returns the metrics.

    With several processes only process 0 writes and prints.

    Args:
      net: the model.
      evaluator: collects, measures and writes the predictions.
      compiled: the compiled `eval_step`s by batch shape.
      parameters: the parameters by path.
      split: the split, with windows.
      loader: the split's batches, which contain each window once.
      folder: the folder for the files.
      train: the examples of the training data, or of this process's shards, for tasks that compare with them.
      processor: the model's processor, for tasks that generate text.
      config: the run's settings.
      console: prints the report.
      tune: whether the evaluator chooses on this split the values that are not learnt, such as thresholds.
    """
    measured, predictions = evaluate(net, evaluator, compiled, parameters, split, loader)
    if tune:
        evaluator.tune(split, predictions)
    rows = choose_eval_rows(config, net.task.batch_spec, ways=1)
    generate = functools.partial(generate_texts, net, parameters, processor, rows=rows)
    predictions = evaluator.add_generated(split, predictions, processor, generate)
    seen: list[Json] = []
    if evaluator.compares_with_train:
        seen = list(itertools.chain(*processes.gather(evaluator.find_seen(split, predictions, train))))
    if not processes.is_main_process():
        return measured.compute()
    return evaluator.write_evaluation(
        folder,
        split,
        measured,
        predictions,
        seen=seen,
        samples=config.eval.bootstrap,
        seed=config.seed,
        console=console,
    )


def generate_texts(
    net: Network,
    parameters: Parameters,
    processor: Processor,
    prompts: list[list[int]],
    options: GenerationOptions,
    *,
    rows: int,
) -> list[str]:
    """Generates the continuation of each prompt of token ids, up to its end, in batches of `rows` prompts."""
    tokenizer = tokenizer_of(processor)
    model = merge_model(net.graphdef, replicate_locally(parameters, net.mesh))
    assert isinstance(model, LanguageModel)
    merge_adapters(model)  # decoders read the kernels alone
    generator = Generator(model.backbone, eos=tokenizer.eos_token_id)
    texts = []  # a list for each batch of this process; processes take batches in turn
    for first in range(processes.index() * rows, len(prompts), processes.count() * rows):
        outputs = generator.generate(prompts[first : first + rows], options, first_number=first)
        texts.append([tokenizer.decode(output.ids, skip_special_tokens=True) for [output] in outputs])
    batches = itertools.chain.from_iterable(itertools.zip_longest(*processes.gather(texts), fillvalue=()))
    return list(itertools.chain.from_iterable(batches))


def predict_batches(
    net: Network, compiled: Mapping[Shape, Any], parameters: Parameters, loader: Batches
) -> Iterator[tuple[Batch, dict[str, np.ndarray], dict[str, float]]]:
    """Yields the predictions of one epoch of `loader`, in its order.

    The device works ahead of the consumer by a limited number of batches, so memory does not grow with the data.

    Args:
      net: the model.
      compiled: the compiled `eval_step`s by batch shape.
      parameters: the parameters by path.
      loader: the batches.

    Yields:
      (batch, outputs on the host, loss sums).
    """
    queue: collections.deque[tuple[Batch, Arrays, Arrays]] = collections.deque()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        arrays = place_batch(batch.arrays, net.mesh)
        queue.append((batch, *compiled[batch.shape](parameters, arrays)))
        if len(queue) > QUEUED_BATCHES:
            yield _fetch(*queue.popleft())
    while queue:
        yield _fetch(*queue.popleft())


def _fetch(
    batch: Batch, predictions: Arrays, sums: Arrays
) -> tuple[Batch, dict[str, np.ndarray], dict[str, float]]:
    """Copies the results of a batch to the host, and waits for them."""
    outputs, host_sums = jax.device_get((predictions, sums))
    return batch, outputs, {name: float(value) for name, value in host_sums.items()}
