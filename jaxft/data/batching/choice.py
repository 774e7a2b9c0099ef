"""Chooses the loader: all windows planned at once, chunk by chunk, or mixed from several data sets."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.data.batching import chunked
from jaxft.data.batching.batch import TOKEN_LABELS
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import BatchLayout, Loader
from jaxft.data.batching.mixed import WINDOWS_ONCE, Mix, plan_mixed_rows
from jaxft.data.batching.packing import choose_block_length
from jaxft.data.batching.plan import plan_rows
from jaxft.data.encoding.encoded import ArraySpec, Encoded
from jaxft.data.encoding.windows import Windows


def make_loader(
    windows: Encoded,
    *,
    rows: int,
    max_length: int,
    pack: bool = True,
    buckets: Sequence[int] | None = None,
    block_length: int | None = None,
    max_segments: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    mix: Mix = WINDOWS_ONCE,
    chunk: int | None = None,
    arrays: Mapping[str, ArraySpec] = TOKEN_LABELS,
    only: np.ndarray | None = None,
) -> Loader | ChunkedLoader:
    """Plans rows of `windows` and returns the loader of their batches.

    Args:
      windows: the encoded data.
      rows, max_length, pack, buckets, block_length, max_segments: see `plan_rows`. With a mix, all rows have the same
        length and no blocks.
      arrays, only: see `BatchLayout`.
      seed: the seed of shuffling.
      shuffle: if False, each window comes once an epoch, in a fixed order.
      mix: the proportions of data sets in shuffled batches; by default each window comes once an epoch.
      chunk: number of windows planned at once; by default `chunked.CHUNK_WINDOWS`. If there are more windows, each
        chunk is shuffled by itself.

    Raises:
      UserError: the mix does not fit the data sets.
      ValueError: a window is longer than a row.
    """
    if only is not None and len(only) == rows:
        only = None
    layout = BatchLayout(arrays, max_segments, only)
    used_seed = seed if shuffle else None
    if shuffle and (mix.kind != "size" or mix.by_task):
        assert isinstance(windows, Windows)  # only data sets of text are mixed
        mixed = plan_mixed_rows(
            windows, mix, rows=rows, max_length=max_length, pack=pack, max_segments=max_segments
        )
        return Loader(windows, mixed, layout, used_seed)
    plan = functools.partial(
        plan_rows, rows=rows, max_length=max_length, pack=pack, max_segments=max_segments, buckets=buckets
    )
    chunk = chunk or chunked.CHUNK_WINDOWS
    if len(windows) <= chunk:
        return Loader(windows, plan(windows.lengths, block_length=block_length), layout, used_seed)
    if pack and block_length is None:
        block_length = choose_block_length(windows.lengths, rows, max_length, max_segments)
    plan_chunk = functools.partial(plan, block_length=block_length)
    return chunked.make_chunked_loader(windows, chunk, plan_chunk, layout, used_seed)
