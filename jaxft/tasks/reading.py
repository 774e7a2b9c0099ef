"""Makes what the tasks' readers share: chunks of a stream, the folder of the cache, counts over processes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxft.io.stores import refuse_address
from jaxft.parallel import processes
from jaxft.tasks.base import Chunk, Example


def chunk_by_words(
    examples: Iterable[Example | None], count_words: Callable[[Example], int], max_words: int
) -> Iterator[Chunk[Example]]:
    """Yields chunks of consecutive examples, each of at most `max_words` words or a single example. Reads one ahead.

    None among the examples ends a chunk: the next example may take long to arrive.
    """
    chunk: list[Example] = []
    words_in_chunk = 0
    for example in examples:
        words = 0 if example is None else count_words(example)
        if chunk and (example is None or words_in_chunk + words > max_words):
            yield Chunk(chunk, range(len(chunk)))
            chunk, words_in_chunk = [], 0
        if example is None:
            continue
        chunk.append(example)
        words_in_chunk += words
    if chunk:
        yield Chunk(chunk, range(len(chunk)))


def count_set_in_any_process(flags: np.ndarray) -> int:
    """Counts the `flags`, bool [N], that are set in any process.

    Processes may hold different shards of the training data, so each process finds only a part.
    """
    return int(np.count_nonzero(processes.any_process(flags)))


def cache_folder(cache_dir: str | None) -> Path | None:
    """Returns the folder of the cache of encoded data for `config.data.cache_dir`; by default ~/.cache/jaxft/data.

    Returns None, for no cache, if the setting is "off".
    """
    if cache_dir == "off":
        return None
    refuse_address(cache_dir, "config.data.cache_dir", "name a local folder, or off for no cache")
    return Path(cache_dir) if cache_dir else Path.home() / ".cache" / "jaxft" / "data"
