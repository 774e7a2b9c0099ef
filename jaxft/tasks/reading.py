"""Defines what tasks that read text share: their model, chunks of a stream, the cache, counts over processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxft.config.sections import Settings
from jaxft.hub.processors import TextProcessor
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.io.stores import refuse_address
from jaxft.models.pretrained_model import PretrainedModel, open_pretrained_model
from jaxft.models.registry import list_families
from jaxft.parallel import processes
from jaxft.tasks.base import Chunk, Example, TaskData
from jaxft.tasks.registry import TASKS

COUNTED_CHARACTERS = 1 << 16  # of text whose words are counted at a time


class TextData(TaskData[Example]):
    """The data of a task that reads text. Its model is a checkpoint, whose processor is a tokenizer.

    Attributes:
      reads_words: True if texts are lists of words.
    """

    reads_words: bool = False

    def __init__(self, config: Settings):
        self._config = config

    def iterate_texts(self, train: Sequence[Example]) -> Iterator[str]:
        """Yields the text of the training data, to train a new tokenizer on."""

    def open_model(self, train: Sequence[Example]) -> PretrainedModel:
        """Opens the checkpoint of `config.model`; see `open_pretrained_model`. A new one's tokenizer reads `train`."""
        supported = list_families(TASKS[self._config.task].head)
        return open_pretrained_model(
            self._config, lambda: self.iterate_texts(train), reads_words=self.reads_words, supported=supported
        )

    def load_processor(self, folder: Path) -> TextProcessor:
        """Loads the tokenizer in `folder`."""
        return TextProcessor(load_tokenizer(folder))


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


def count_words(text: str) -> int:
    """Counts the words of a text that white space separates; about, if the text is long, for less memory."""
    pieces = (text[start : start + COUNTED_CHARACTERS] for start in range(0, len(text), COUNTED_CHARACTERS))
    return sum(len(piece.split()) for piece in pieces)


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
