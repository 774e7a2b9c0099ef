"""Evaluates a model on a split; as a command, a run's best weights on any file: `python -m jaxft.evaluate`."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxft import sharding
from jaxft.build import Network
from jaxft.data.loader import Batch, Loader
from jaxft.tasks.base import Split

QUEUED = 2  # batches on the device ahead of the one that the host reads


def outputs(
    net: Network, compiled: Mapping[tuple[int, int], Any], parameters: dict, loader: Loader
) -> Iterator[tuple[Batch, dict[str, np.ndarray], dict[str, float]]]:
    """Predictions of one epoch of `loader`: (batch, outputs on the host, loss sums), in its order.

    compiled: `eval_step`s by batch shape. The device works ahead of the consumer by a bounded number of
    batches, so memory does not grow with the data.
    """
    queue: collections.deque = collections.deque()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        arrays = sharding.place(batch.arrays, net.mesh)
        queue.append((batch, *compiled[batch.arrays["input_ids"].shape](parameters, arrays)))
        if len(queue) > QUEUED:
            yield _fetch(*queue.popleft())
    while queue:
        yield _fetch(*queue.popleft())


def _fetch(batch, predictions, sums):
    predictions, sums = jax.device_get((predictions, sums))
    return batch, predictions, {name: float(value) for name, value in sums.items()}


def evaluate(
    net: Network, compiled: Mapping[tuple[int, int], Any], parameters: dict, split: Split, loader: Loader
) -> tuple[Any, Any]:
    """(metric state, predictions) of a whole split; see `Task.measure` and `Task.collect`."""
    totals = {"loss_sum": 0.0, "weight_sum": 0.0}

    def batches():
        for batch, predictions, sums in outputs(net, compiled, parameters, loader):
            for name, value in sums.items():
                totals[name] += value
            yield batch, predictions

    predictions = net.task.collect(split, batches())
    return net.task.measure(split, predictions, **totals), predictions
