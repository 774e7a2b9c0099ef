"""Serves batches whose rows are dealt to shards of the data, so that a process needs the shards of its rows only."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.data.batching import chunked
from jaxft.data.batching.batch import Batch, Batches, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.packing import SAMPLE, choose_block_length
from jaxft.data.encoding.windows import Windows

# From what this process knows of some shards, by number, to what is known of all, in order.
GatherByShard = Callable[[Mapping[int, Any]], list[Any]]


def shards_of_rows(rows: np.ndarray, all_rows: int, shards: int) -> list[int]:
    """Returns which of `shards` feed `rows` of a batch of `all_rows`, rising: each feeds the same number in turn."""
    return np.unique(rows // (all_rows // shards)).tolist()


@dataclass(frozen=True, eq=False)
class ShardedLoader:
    """The batches to which shard k of n feeds the k-th n-th of the rows. Implements `Batches`.

    A shard is packed and shuffled by itself, and each of its windows comes exactly once an epoch, which has as many
    steps as the longest shard needs; the others' empty rows are spread over it, so that few share a step. A batch is a
    pure function of the seed, the step and the shards, whichever process feeds which. Rows are packed, of one length.

    Attributes:
      loaders: of the shards that this process feeds, by number.
      empty_batches: what each of these gives at steps for which it has no rows.
      shard_steps: steps an epoch of each shard.
      orders: the hash of each shard's order.
    """

    loaders: Mapping[int, Batches]
    empty_batches: Mapping[int, Batch]
    shard_steps: Sequence[int]
    orders: Sequence[str]
    shapes: tuple[Shape, ...]
    window_count: int
    padding_fraction: float

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps, those of the longest shard."""
        return max(self.shard_steps)

    def uneven_warning(self) -> str | None:
        """Returns a warning if a shard has so little that its rows are empty in a tenth of the steps or more."""
        least, most, shards = min(self.shard_steps), max(self.shard_steps), len(self.shard_steps)
        if least > 0.9 * most:
            return None
        return (
            f"warning: shards are of different sizes: shard {self.shard_steps.index(least) + 1} of {shards} has rows "
            f"for {least:,} of an epoch's {most:,} steps; give files of more equal size, in number a multiple of "
            f"config.data.shards={shards}, or have fewer shards"
        )

    def order(self) -> str:
        """Hashes the orders of all shards."""
        return hashlib.sha256(json.dumps(self.orders).encode()).hexdigest()

    def batch(self, step: int) -> Batch:
        """Returns the batch of any step from 0 on: the rows that this process feeds, the others empty.

        `windows` counts from the beginning of each shard. Raises IndexError if there is no such step.
        """
        if step < 0:
            raise IndexError(f"no batch {step}")
        epoch, index = divmod(step, self.steps_per_epoch)
        [shape], shards = self.shapes, len(self.shard_steps)
        batches = {}
        for number, loader in self.loaders.items():
            steps, shift = loader.steps_per_epoch, number * self.steps_per_epoch // shards
            # The shard's step that comes before `index`, and before the next.
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
            sum(batch.tokens for batch in batches.values()),
            shape,
        )


def make_sharded_loader(
    windows: Mapping[int, Windows],
    *,
    shards: int,
    gather: GatherByShard,
    rows: int,
    max_length: int,
    seed: int,
    pad_id: int,
    only: np.ndarray,
    max_segments: int | None = None,
    **options,
) -> ShardedLoader:
    """Makes up the rows of this process's shards, with facts that the processes tell each other.

    Args:
      windows: of the shards, by number from 0, that feed the rows `only`.
      shards: how many there are in all.
      gather: asks the other processes; each must call this function.
      options: of `make_loader`.
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
            chunk=max(
                chunked.CHUNK_WINDOWS // shards, 1
            ),  # a process with all shards plans as much as of one
            rows=shard_rows,
            only=only[(only >= first) & (only < end)] - first,
            seed=shard_seed,
            pad_id=pad_id,
            block_length=block,
            max_length=max_length,
            max_segments=max_segments,
            **options,
        )
    facts = {
        number: (
            loader.steps_per_epoch,
            loader.shapes[0].whole_row_period,
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
        {number: _empty_batch(loader.batch(0), pad_id) for number, loader in loaders.items()},
        steps,
        gather({number: loader.order() for number, loader in loaders.items()}),
        (Shape(rows, max_length, block, period),),
        sum(counts),
        1 - sum(tokens) / (max(steps) * rows * max_length),
    )


def _empty_batch(like: Batch, pad_id: int) -> Batch:
    """Returns a batch of empty rows, with arrays as those of `like`."""
    arrays = {
        name: np.full_like(values, pad_id if name == "input_ids" else 0)
        for name, values in like.arrays.items()
    }
    return Batch(arrays, np.full_like(like.windows, -1), np.zeros_like(like.starts), 0, like.shape)
