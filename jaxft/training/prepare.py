"""Prepares the base model and the training batches of a run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.mixed import Mix
from jaxft.data.batching.sharded import ShardedLoader, make_sharded_loader
from jaxft.data.encoding.windows import Windows
from jaxft.models.pretrained_model import PretrainedModel, describe_pretrained_model, open_pretrained_model
from jaxft.parallel import processes
from jaxft.tasks.registry import task_class
from jaxft.training.network import Network

# The last layer is pruned if the loss reads at most this share of the tokens. This is an estimate: beyond it, at most a
# tenth of one layer's time could be saved. At a share of 0.58 a step of WNUT-17 took 0.955 of its time.
MAX_OUTPUT_SHARE = 0.9


def open_base_model(config: Settings, texts: Callable[[], Iterable[str]]) -> PretrainedModel:
    """Opens the model that a run of `config` starts from, for the run's task; see `open_pretrained_model`."""
    task = task_class(config)
    return open_pretrained_model(config, texts, reads_words=task.reads_words, supported=task.model_types)


def describe_base_model(config: Settings) -> dict[str, Any]:
    """Returns the config.json of the model that `config` trains; see `describe_pretrained_model`."""
    return describe_pretrained_model(config, task_class(config).model_types)


def make_train_loader(
    windows: Mapping[int, Windows], config: Settings, *, only: np.ndarray, **options
) -> Loader | ChunkedLoader | ShardedLoader:
    """Returns the batches of the training data.

    Args:
      windows: the windows of the shards that feed the rows `only`, by shard number from 0.
      config: the run's settings.
      only: the rows that this process feeds.
      options: the arguments of `make_loader` that are not in `config`.
    """
    data, rows = config.data, config.batch.rows
    if data.shards > 1:
        gather = processes.gather_by_shard
        return make_sharded_loader(
            windows, shards=data.shards, gather=gather, rows=rows, only=only, **options
        )
    mix = Mix(**config.mix_options())
    return make_loader(windows[0], mix=mix, rows=rows, only=only, pack=data.pack, **options)


def prune_outputs(
    net: Network,
    loader: Loader | ChunkedLoader | ShardedLoader,
    windows: Mapping[int, Windows],
    *,
    steps: int,
    microbatches: int,
) -> tuple[Loader | ChunkedLoader | ShardedLoader, float]:
    """Lets the last layer compute only the positions that the loss reads.

    It does so if the network can, the data is one shard, and the loss skips enough positions.

    Args:
      net: the network.
      loader: the training batches.
      windows: the loader's windows, by shard.
      steps: the steps of the run.
      microbatches: the number of microbatches in a batch.

    Returns:
      The loader, whose shapes then say how many positions the loss reads, and the share of tokens that the last layer
      computes.
    """
    if not net.prunes_outputs or isinstance(loader, ShardedLoader):
        return loader, 1.0
    output_counts = net.task.output_counts(windows[0])
    if output_counts is None:
        return loader, 1.0
    share = float(output_counts.sum() / windows[0].lengths.sum())
    if share > MAX_OUTPUT_SHARE:
        return loader, 1.0
    return loader.with_output_counts(output_counts, steps, microbatches), share
