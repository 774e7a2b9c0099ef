"""Says how many products each implementation of attention computes: sizes of chunks, trips of loops, FLOPs."""

import contextlib
from typing import NamedTuple

import jax

from jaxft.layers.attention.interface import Visibility
from jaxft.layers.attention.limits import FLASH_BLOCK, KERNELS, choose_splash_block

# The slots of a chunk: the quickest of 128, 256 and 512 on CPU. With a window, chunks of queries are as long as it is,
# at least MIN_CHUNK, and meet all their keys at once.
CHUNK = 256
MIN_CHUNK = 64
MOST_TRIPS = "most_trips_"  # the begin of the name of a loop, before the number


def named_loop(most: int) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which to make a loop whose trips depend on data, and are at most `most`.

    The compiled program has its name, by which `jaxft plan` knows how often it may run.
    """
    return jax.named_scope(f"{MOST_TRIPS}{most}")


class Chunks(NamedTuple):
    """The chunks in which attention is computed.

    Attributes:
      queries, keys: the slots of a chunk of queries, and of one of keys.
      most_trips: how many chunks of keys a chunk of queries sees at most.
    """

    queries: int
    keys: int
    most_trips: int


def choose_chunks(length: int, visibility: Visibility) -> Chunks:
    """Returns the chunks for rows of `length` slots."""
    queries = keys = min(CHUNK, length)
    reach, window = length, visibility.window
    if window is not None:
        queries = min(queries, max(MIN_CHUNK, window))
        reach = min(length, queries + window * (1 if visibility.causal else 2))
        keys = reach if reach <= 2 * CHUNK else keys
    return Chunks(queries, keys, -(-reach // keys))


def count_products(name: str, length: int, visibility: Visibility, relative_products: int = 0) -> int:
    """Returns how many vectors of a head's width a query is multiplied with, or sums, in the forward pass.

    These are the keys and values that the implementation computes for a query of the longest segment, seen or not, and
    the positions of relative products, whether they are multiplied with queries or with keys. What the backward pass
    computes again is not counted, and causal attention counts as if it saw later positions, as in Chowdhery et al.
    (2022), appendix B. Rows in blocks, which `make_attention` may compute by other means, count as if they had none,
    like the rows of `jaxft plan`.

    Args:
      name: the implementation.
      length: L, the number of slots in a row.
      visibility: which positions of its segment a query sees.
      relative_products: the number of products with positions that scores add.
    """
    chunks = Chunks(length, length, 1)
    if name == "chunked":
        chunks = choose_chunks(length, Visibility(window=visibility.window))
    elif name in KERNELS and visibility.window is not None:
        block = FLASH_BLOCK if name == "flash" else choose_splash_block(length)
        blocks = min(length // block, 1 + 2 * -(-visibility.window // block))
        chunks = Chunks(block, block, blocks)
    distances = chunks.queries + chunks.keys  # one more than there are
    return chunks.most_trips * (2 * chunks.keys + relative_products * distances)
