"""Defines what tasks share that read data: the model of texts, chunks of a stream, the cache, counts over processes."""

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxft.config.sections import Settings
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import choose_dev_examples, cut_document
from jaxft.data.sources.documents import Document, read_documents
from jaxft.data.sources.mapped_documents import MappedDocuments, hash_documents
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.io.stores import refuse_address
from jaxft.models.pretrained_model import PretrainedModel, open_pretrained_model
from jaxft.models.registry import list_families
from jaxft.parallel import processes
from jaxft.tasks.base import Chunk, Example, Log, Split, TaskData
from jaxft.tasks.registry import head_kind
from jaxft.tasks.settings import DocumentSettings, make_file_format

COUNTED_CHARACTERS = 1 << 16  # of text whose words are counted at a time


class TextData(TaskData[Example, Windows, TextProcessor]):
    """The data of a task that reads text. Its model is a checkpoint, whose processor is a tokenizer.

    Attributes:
      reads_words: True if texts are lists of words.
    """

    reads_words: bool = False

    def __init__(self, config: Settings):
        self._config = config

    @abc.abstractmethod
    def iterate_texts(self, train: Sequence[Example]) -> Iterator[str]:
        """Yields the text of the training data, to train a new tokenizer on."""

    def open_model(self, train: Sequence[Example]) -> PretrainedModel:
        """Opens the checkpoint of `config.model`; see `open_pretrained_model`. A new one's tokenizer reads `train`."""
        supported = list_families(head_kind(self._config.task))
        return open_pretrained_model(
            self._config, lambda: self.iterate_texts(train), reads_words=self.reads_words, supported=supported
        )

    def load_processor(self, folder: Path) -> TextProcessor:
        """Loads the tokenizer in `folder`."""
        return TextProcessor(load_tokenizer(folder))


class DocumentData(TextData[Document]):
    """The data of a task that reads documents."""

    _config: DocumentSettings

    @property
    def template(self) -> str | None:
        """The template of prompts and targets, if there are any."""
        return None

    def read(self, name: str, source: str, log: Log) -> MappedDocuments:
        """Returns the nonempty texts of `source`, and logs the numbers of nonempty and empty texts."""
        data, characters, empty = self._config.data, 0, 0

        def nonempty_texts() -> Iterator[Document]:
            nonlocal characters, empty
            for text in read_documents(
                source,
                format=make_file_format(data),
                documents=data.documents,
                template=self.template,
                columns=dict(data.columns),
                log=log,
            ):
                if text.text.strip():
                    characters += len(text.text)
                    yield text
                else:
                    empty += 1

        texts = MappedDocuments.from_documents(nonempty_texts())
        noun = "documents" if self.template is None else "targets of prompts"
        if not texts:
            raise UserError(f"{name}: {source}: all {empty} {noun} are empty; name a source that has some")
        omission = f"; {empty:,} empty ones left out" if empty else ""
        log(f"{name}: {source}: {len(texts):,} {noun}, {characters:,} characters{omission}")
        return texts

    def split_dev(
        self, texts: Sequence[Document], fraction: float, seed: int
    ) -> tuple[Sequence[Document], Sequence[Document]]:
        """Splits texts into (train, dev). A single text is cut in two."""
        if len(texts) == 1:
            train, dev = cut_document(texts[0], fraction)
            return [train], [dev]
        assert isinstance(texts, MappedDocuments)  # `read` returns them
        chosen = np.array(choose_dev_examples(texts.document_ids, fraction, seed))
        return texts.select(~chosen), texts.select(chosen)

    def iterate_texts(self, train: Sequence[Document]) -> Iterator[str]:
        """Yields prompts with their targets, or documents."""
        return ((text.prompt or "") + text.text for text in train)

    def check(
        self, split: Split[Document, Windows], labels: Sequence[str], train: Sequence[Document], log: Log
    ) -> None:
        """Warns about texts that are also in `train`."""
        texts = split.examples
        if texts is not train:
            if shared := count_set_in_any_process(np.isin(hash_documents(texts), hash_documents(train))):
                log(
                    f"warning: {shared:,} of {len(texts):,} texts of {split.name} stand word for word in train"
                )

    def chunk(self, texts: Iterable[Document | None], max_words: int) -> Iterator[Chunk[Document]]:
        """Yields chunks of texts."""
        return chunk_by_words(texts, lambda text: count_words(text.text), max_words)


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
