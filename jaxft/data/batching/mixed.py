"""How often each of several data sets comes in training, and whether a step's rows are of one or of all."""

from typing import NamedTuple

import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.data.batching.chunked import CHUNK, ChunkedLoader
from jaxft.data.batching.loader import Loader, random_permutation
from jaxft.data.batching.packing import Packed, pack_rows
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.errors import UserError


class Mix(NamedTuple):
    """How data sets are mixed; see `MixedLoader`."""

    kind: str = "size"  # or "temperature", "weights"
    temperature: float = 1.0
    weights: tuple[float, ...] = ()  # one a data set
    by_task: bool = False  # whether a step's rows are of one data set


def make_loader(
    windows: Windows, mix: Mix, *, shuffle: bool, chunk: int | None = None, **options
) -> Loader | ChunkedLoader:
    """Batches of `windows` in the proportions of `mix`; without `shuffle` each window once, in fixed order.

    options: of `Loader`. More windows than `chunk`, default `CHUNK`, are shuffled within chunks.
    """
    chunk = chunk or CHUNK
    if not shuffle or (mix.kind == "size" and not mix.by_task):
        if len(windows) > chunk:
            return ChunkedLoader(windows, chunk=chunk, shuffle=shuffle, **options)
        return Loader(windows, shuffle=shuffle, **options)
    return MixedLoader(windows, mix, **options)


class MixedLoader(Loader):
    """Draws rows, each of one data set, in given proportions, still as a pure function of seed and step.

    An epoch is as many rows as all data sets have together. Each data set goes through its own passes, in which every
    window comes exactly once, at its own pace: where an epoch ends in the middle of a pass the next one goes on with
    it. By task a step's rows are of one data set.

    A data set of n windows is drawn, window by window, in proportion to n ("size"), n ** (1 / T) ("temperature";
    T = 1 is "size", infinite T all alike; Devlin 2019's multilingual BERT has T = 1 / 0.7) or given weights. Its share
    of rows follows from how many windows its rows hold. Each comes at least once an epoch, as a row or step.
    """

    def __init__(self, windows: Windows, mix: Mix, *, max_length: int, pack: bool = True, **options):
        self._set_of = windows.column("data_set")
        sets = int(self._set_of.max()) + 1
        if len(mix.weights) not in (0, sets):
            raise UserError(
                f"config.data.mix_weights={mix.weights} has {len(mix.weights)} numbers for "
                f"{sets} data sets; give one for each, in the order in which config.data.train names them"
            )
        buckets = None if pack else [max_length]  # of one length, so that any rows can share a step
        super().__init__(windows, max_length=max_length, pack=pack, buckets=buckets, **options)
        row_set = self._set_of[self._members[self._first[:-1]]]
        count = np.bincount(self._set_of, minlength=sets)
        rows = np.bincount(row_set, minlength=sets)
        if not rows.all():
            raise UserError(
                f"data set {int(np.argmin(rows)) + 1} of {sets} in config.data.train has no text; leave it out"
            )
        wanted = {
            "size": count,
            "temperature": count ** (1 / mix.temperature),
            "weights": np.array(mix.weights or count, float),
        }[mix.kind]
        steps, size = self.steps_per_epoch, self._rows
        self._by_task = mix.by_task
        places = steps if self._by_task else steps * size
        if places < sets:
            raise UserError(
                f"an epoch has {places} {'steps' if self._by_task else 'rows'} for {sets} data sets; make "
                "config.batch.rows smaller"
            )
        drawn = _spread(places, wanted * rows / count) * (size if self._by_task else 1)
        self._drawn: list[int] = drawn.tolist()  # rows of each data set an epoch
        self._rows_of = rows.tolist()
        tokens = np.bincount(self._set_of, self._lengths, minlength=sets)
        self.padding_fraction = float(1 - (drawn * tokens / rows).sum() / (drawn.sum() * max_length))

        # A row stands in the tables once for each pass that an epoch can have a part in.
        copies = [-(-n // r) + 1 for n, r in zip(self._drawn, self._rows_of, strict=True)]
        own = [np.flatnonzero(row_set == index) for index in range(sets)]
        order = np.concatenate([np.tile(one, n) for one, n in zip(own, copies, strict=True)])
        counts = np.diff(self._first)[order]
        members = ragged_arange(self._first[order], counts)
        self._members, self._starts = self._members[members], self._starts[members]
        self._first = np.concatenate(([0], np.cumsum(counts)))
        first = np.concatenate(([0], np.cumsum(np.array(copies) * rows)))
        self._copies = [
            [first[index] + copy * rows[index] for copy in range(copies[index])] for index in range(sets)
        ]

    def _pack(
        self, lengths: np.ndarray, shape: Shape, segments: int | None, block: int | None
    ) -> tuple[Packed, Shape]:
        """Rows of one data set each."""
        members, starts, counts = [], [], []
        for index in range(int(self._set_of.max()) + 1):
            own = np.flatnonzero(self._set_of == index)
            packed = pack_rows(lengths[own], shape, segments)
            members.append(own[packed.members])
            starts.append(packed.starts)
            counts.append(np.diff(packed.first))
        first = offsets_from_lengths(np.concatenate(counts))
        return Packed(np.concatenate(members), np.concatenate(starts), first, len(first) - 1), shape

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """As `Loader._epoch`."""
        plan = self._plan
        if plan is not None and plan[0] == epoch:
            return plan
        window_at, swap = self._members.copy(), np.arange(len(self._lengths))
        drawn = []
        for index, (count, rows) in enumerate(zip(self._drawn, self._rows_of, strict=True)):
            own = np.flatnonzero(self._set_of == index)
            by_length = own[np.argsort(self._lengths[own], kind="stable")]
            start = epoch * count
            sequence = []
            for copy, number in enumerate(range(start // rows, (start + count - 1) // rows + 1)):
                bits = np.random.PCG64(np.random.SeedSequence([self._seed, index, number, 1]))
                shuffled = own[random_permutation(bits, len(own))]
                swap[by_length] = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
                first = self._copies[index][copy]
                members = slice(self._first[first], self._first[first + rows])
                window_at[members] = swap[self._members[members]]
                sequence.append(first + random_permutation(bits, rows))
            drawn.append(np.concatenate(sequence)[start % rows :][:count])
        bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch, 0, 2]))
        steps = np.concatenate(drawn)
        if not self._by_task:
            steps = steps[random_permutation(bits, len(steps))]
        steps = steps.reshape(-1, self._rows)
        if self._by_task:
            steps = steps[random_permutation(bits, len(steps))]
        self._plan = (epoch, window_at, steps, np.zeros(len(steps), np.int64))
        return self._plan


def _spread(count: int, shares: np.ndarray) -> np.ndarray:
    """`count` in whole numbers, 1 or more each, by `shares`: int64, by largest remainder."""
    exact = count * shares / shares.sum()
    found = np.maximum(np.floor(exact).astype(np.int64), 1)
    while found.sum() != count:
        if found.sum() < count:
            found[np.argmax(exact - found)] += 1
        else:
            found[np.argmax(np.where(found > 1, found - exact, -np.inf))] -= 1
    return found
