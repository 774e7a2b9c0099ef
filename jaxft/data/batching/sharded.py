"""Batches whose rows are dealt to parts of the data, so that who feeds some rows needs no more than their parts."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxft.data.batching import mixed
from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.packing import SAMPLE, choose_block_length
from jaxft.data.encoding.windows import Windows

# From what this process knows of some parts, by number, to what is known of all, in order.
GatherByShard = Callable[[Mapping[int, Any]], list[Any]]


def shards_of_rows(rows: np.ndarray, all_rows: int, parts: int) -> list[int]:
    """Which of `parts` feed some `rows` of a batch of `all_rows`, rising: each feeds as many, one after the other."""
    return np.unique(rows // (all_rows // parts)).tolist()


class ShardedLoader:
    """Random access to the batches of any epoch, as `Loader`'s; part k of n feeds the k-th n-th of their rows.

    A part is packed and shuffled by itself, and each of its windows comes exactly once an epoch, which has as many
    steps as the longest part needs; the others' empty rows are spread over it, so that few share a step. A batch is a
    pure function of the seed, the step and the parts, whoever feeds which of them. Rows are packed, and of one length.
    """

    def __init__(
        self,
        windows: Mapping[int, Windows],
        *,
        parts: int,
        pool: GatherByShard,
        rows: int,
        max_length: int,
        seed: int,
        pad_id: int,
        only: np.ndarray,
        segments: int | None = None,
        **options,
    ):
        """Makes up the rows.

        windows: of the parts, from 0, that feed the rows `only`. parts: how many there are in all. options: of
        `Loader`.
        """
        self._rows, self._parts, self._each = rows, parts, rows // parts
        lengths = {number: own.lengths for number, own in windows.items()}
        samples = pool({n: own[:: max(1, len(own) * parts // SAMPLE)].tolist() for n, own in lengths.items()})
        sample = np.concatenate([np.array(one, np.int64) for one in samples])
        block = choose_block_length(sample, self._each, max_length, segments)
        self._loaders = {}
        for number, own in sorted(windows.items()):
            [its_seed] = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
            first, end = number * self._each, (number + 1) * self._each
            self._loaders[number] = mixed.make_loader(
                own,
                mixed.Mix(),
                shuffle=True,
                chunk=max(mixed.CHUNK // parts, 1),  # who has all parts plans as much as of one
                rows=self._each,
                only=only[(only >= first) & (only < end)] - first,
                seed=int(its_seed),
                pad_id=pad_id,
                block=block,
                max_length=max_length,
                segments=segments,
                **options,
            )
        known = {n: (one.steps_per_epoch, one.shapes[0].whole_row_period) for n, one in self._loaders.items()}
        known = pool({n: (*facts, int(lengths[n].sum()), len(lengths[n])) for n, facts in known.items()})
        steps, every, tokens, counts = zip(*known, strict=True)
        self._steps: tuple[int, ...] = steps  # an epoch, of each part
        # What holds for each n-th row holds for more of them.
        every = min((one for one in every if one), default=0)
        for one in self._loaders.values():
            one.set_whole_row_period(every)
        self._empty = {number: _empty(one.batch(0), pad_id) for number, one in self._loaders.items()}
        self._orders = pool({number: one.order() for number, one in self._loaders.items()})
        self.shapes = [Shape(rows, max_length, block, every)]
        self.steps_per_epoch = max(steps)
        self.window_count = sum(counts)
        self.padding_fraction = 1 - sum(tokens) / (self.steps_per_epoch * rows * max_length)

    def uneven(self) -> str | None:
        """Says so where a part has so little that its rows are empty in a tenth of the steps and more."""
        least, most = min(self._steps), max(self._steps)
        if least > 0.9 * most:
            return None
        return (
            f"warning: parts are of different sizes: part {self._steps.index(least) + 1} of {self._parts} has rows for "
            f"{least:,} of an epoch's {most:,} steps; give files of more equal size, in number a multiple of "
            f"config.data.shards={self._parts}, or have fewer parts"
        )

    def order(self) -> str:
        """A hash of the orders of all parts."""
        return hashlib.sha256(json.dumps(self._orders).encode()).hexdigest()

    def batch(self, step: int) -> Batch:
        """The batch of any step from 0 on, of which this process has the rows that it feeds, and knows no others.

        `windows` counts from the beginning of each part. Raises IndexError where there is none.
        """
        if step < 0:
            raise IndexError(f"no batch {step}")
        epoch, index = divmod(step, self.steps_per_epoch)
        found = {}
        for number, one in self._loaders.items():
            steps, shift = one.steps_per_epoch, number * self.steps_per_epoch // self._parts
            before, after = ((at * steps + shift) // self.steps_per_epoch for at in (index, index + 1))
            found[number] = one.batch(epoch * steps + before) if after > before else self._empty[number]
        batches = list(found.values())
        segments = max(batch.windows.shape[1] for batch in batches)
        windows = np.full((self._rows, segments), -1, np.int32)
        starts = np.zeros((self._rows, segments), np.int32)
        for number, batch in found.items():
            own = slice(number * self._each, (number + 1) * self._each), slice(batch.windows.shape[1])
            windows[own], starts[own] = batch.windows, batch.starts
        names = batches[0].arrays
        return Batch(
            {name: np.concatenate([batch.arrays[name] for batch in batches]) for name in names},
            windows,
            starts,
            sum(batch.tokens for batch in batches),
            self.shapes[0],
        )


def _empty(like: Batch, pad_id: int) -> Batch:
    arrays = {
        name: np.full_like(values, pad_id if name == "input_ids" else 0)
        for name, values in like.arrays.items()
    }
    return Batch(arrays, np.full_like(like.windows, -1), np.zeros_like(like.starts), 0, like.shape)
