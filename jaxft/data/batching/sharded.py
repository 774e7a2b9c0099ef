"""Loads batches whose rows come from shards of the data. A process needs only the shards of its rows."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.data.batching import chunked
from jaxft.data.batching.batch import Batch, Blocks, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.packing import SAMPLE, choose_block_length
from jaxft.data.encoding.encoded import Encoded

# Takes this process's values for its shards, by number; returns the values for all shards, in order.
GatherByShard = Callable[[Mapping[int, Any]], list[Any]]


def shards_of_rows(rows: np.ndarray, all_rows: int, shards: int) -> list[int]:
    """Returns the shards that provide `rows`, ascending; each provides an equal run of the batch's `all_rows` rows."""
    return np.unique(rows // (all_rows // shards)).tolist()


@dataclass(frozen=True, eq=False)
class ShardedLoader:
    """Loads batches in which each of n shards provides 1/n of the rows, in order. Implements `Batches`.

    Each shard is packed and shuffled by itself, and each of its windows comes exactly once an epoch. The longest shard
    decides the number of steps. The empty rows of shorter shards are spread over the epoch, so that few share a step. A
    batch is a pure function of the seed, the step and the shards, and does not depend on which process loads which
    shard. Rows are packed and have one length.

    Attributes:
      loaders: the loaders of this process's shards, by shard number.
      empty_batches: for each of these shards, the batch of steps in which it has no rows.
      shard_steps: the steps of each shard in an epoch.
      orders: the hash of each shard's order.
      gather: gathers values by shard from all processes.
    """

    loaders: Mapping[int, Loader | ChunkedLoader]
    empty_batches: Mapping[int, Batch]
    shard_steps: Sequence[int]
    orders: Sequence[str]
    shapes: tuple[Shape, ...]
    window_count: int
    padding_fraction: float
    gather: GatherByShard

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, which is that of the longest shard."""
        return max(self.shard_steps)

    def uneven_warning(self) -> str | None:
        """Returns a warning if the rows of a shard are empty in a tenth of the steps or more, else None."""
        least, most, shards = min(self.shard_steps), max(self.shard_steps), len(self.shard_steps)
        if least > 0.9 * most:
            return None
        return (
            f"warning: shards are of different sizes: shard {self.shard_steps.index(least) + 1} of {shards} has rows "
            f"for {least:,} of an epoch's {most:,} steps; give files of more equal size, in number a multiple of "
            f"config.data.shards={shards}, or have fewer shards"
        )

    def largest_sums(self, values: Mapping[int, np.ndarray], *, steps: int, groups: int) -> np.ndarray:
        """Returns the largest sum in a group as an array of one; see `Loader.largest_sums`. Each process calls it.

        Args:
          values: int64 `[N]`, of each window, by the numbers of this process's shards.
          steps: the number of batches to look at.
          groups: the number of groups of consecutive rows in a batch, a multiple of the number of shards.
        """
        epochs, shard_groups = -(-steps // self.steps_per_epoch), groups // len(self.shard_steps)
        largest = {}
        for number, loader in self.loaders.items():
            shard_steps = epochs * loader.steps_per_epoch
            [largest[number]] = loader.largest_sums(
                values[number], steps=shard_steps, groups=shard_groups
            ).tolist()
        return np.array([max(self.gather(largest))])

    def order(self) -> str:
        """Hashes the orders of all shards."""
        return hashlib.sha256(json.dumps(self.orders).encode()).hexdigest()

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0: this process's rows are filled, the others are empty.

        The indices in `windows` count from the beginning of each shard. Raises IndexError if there is no such step.
        """
        if step < 0:
            raise IndexError(f"no batch {step}")
        epoch, index = divmod(step, self.steps_per_epoch)
        [shape], shards = self.shapes, len(self.shard_steps)
        batches = {}
        for number, loader in self.loaders.items():
            steps, shift = loader.steps_per_epoch, number * self.steps_per_epoch // shards
            # How many of the shard's steps come before `index`, and before the next index.
            before, after = ((at * steps + shift) // self.steps_per_epoch for at in (index, index + 1))
            has_rows = after > before
            batches[number] = loader.batch(epoch * steps + before) if has_rows else self.empty_batches[number]
        segments = max(batch.windows.shape[1] for batch in batches.values())
        windows = np.full((shape.rows, segments), -1, np.int32)
        starts = np.zeros((shape.rows, segments), np.int32)
        for number, batch in batches.items():
            shard_rows, shard_segments = batch.windows.shape
            place = slice(number * shard_rows, (number + 1) * shard_rows), slice(shard_segments)
            windows[place], starts[place] = batch.windows, batch.starts
        return Batch(
            {
                name: np.concatenate([batch.arrays[name] for batch in batches.values()])
                for name in next(iter(batches.values())).arrays
            },
            windows,
            starts,
            sum(batch.units for batch in batches.values()),
            shape,
        )


def make_sharded_loader(
    windows: Mapping[int, Encoded],
    *,
    shards: int,
    gather: GatherByShard,
    rows: int,
    max_length: int,
    seed: int,
    only: np.ndarray,
    max_segments: int | None = None,
    **options: Any,
) -> ShardedLoader:
    """Plans the rows of this process's shards. The processes exchange the facts that all must know.

    Args:
      windows: the windows of this process's shards, which provide the rows `only`; by shard number, from 0.
      shards: the number of all shards.
      gather: gathers values from all processes; each process must call this function.
      rows, max_length, seed, only, max_segments: as in `make_loader`.
      options: other options of `make_loader`.
    """
    shard_rows = rows // shards
    lengths = {number: shard.lengths for number, shard in windows.items()}
    samples = {
        number: shard_lengths[:: max(1, len(shard_lengths) * shards // SAMPLE)].tolist()
        for number, shard_lengths in lengths.items()
    }
    sample = np.concatenate([np.array(shard_sample, np.int64) for shard_sample in gather(samples)])
    block = choose_block_length(sample, shard_rows, max_length, max_segments)
    loaders = {}
    for number, shard in sorted(windows.items()):
        [shard_seed] = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64).tolist()
        first, end = number * shard_rows, (number + 1) * shard_rows
        loaders[number] = make_loader(
            shard,
            # Divided, so that a process with all shards plans only as many windows at once as with one shard.
            chunk=max(chunked.CHUNK_WINDOWS // shards, 1),
            rows=shard_rows,
            only=only[(only >= first) & (only < end)] - first,
            seed=shard_seed,
            block_length=block,
            max_length=max_length,
            max_segments=max_segments,
            **options,
        )
    facts = {
        number: (
            loader.steps_per_epoch,
            loader.shapes[0].blocks.whole_row_period,
            int(lengths[number].sum()),
            len(lengths[number]),
        )
        for number, loader in loaders.items()
    }
    steps, periods, tokens, counts = zip(*gather(facts), strict=True)
    period = chunked.common_whole_row_period(periods)
    loaders = {number: loader.with_whole_row_period(period) for number, loader in loaders.items()}
    return ShardedLoader(
        loaders,
        {number: _empty_batch(loader.batch(0)) for number, loader in loaders.items()},
        steps,
        gather({number: loader.order() for number, loader in loaders.items()}),
        (Shape(rows, max_length, Blocks(block, period)),),
        sum(counts),
        1 - sum(tokens) / (max(steps) * rows * max_length),
        gather,
    )


def _empty_batch(like: Batch) -> Batch:
    """Returns a batch of empty rows whose arrays have the shapes and dtypes of those in `like`."""
    arrays = {name: np.zeros_like(values) for name, values in like.arrays.items()}
    return Batch(arrays, np.full_like(like.windows, -1), np.zeros_like(like.starts), 0, like.shape)
