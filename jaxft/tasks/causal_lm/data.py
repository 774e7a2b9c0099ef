"""Reads and encodes documents, or pairs of prompts and targets."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxft.data.encoding.documents import encode_documents
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import choose_dev_examples, cut_document
from jaxft.data.sources.documents import Document, read_documents
from jaxft.data.sources.mapped_documents import MappedDocuments, hash_documents
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Log, Split
from jaxft.tasks.causal_lm.settings import Settings
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words, count_set_in_any_process, count_words
from jaxft.tasks.settings import make_file_format


class Documents(TextData[Document]):
    """The documents of a run, or the targets of prompts. The labels of their tokens are the next tokens."""

    _config: Settings
    example_input = "Once upon a time"

    def read(self, name: str, source: str, log: Log) -> MappedDocuments:
        """Returns the nonempty texts of `source`, and logs the numbers of nonempty and empty texts."""
        data, characters, empty = self._config.data, 0, 0

        def nonempty_texts() -> Iterator[Document]:
            nonlocal characters, empty
            options = {
                "format": make_file_format(data),
                "documents": data.documents,
                "template": data.template,
            }
            for text in read_documents(source, columns=dict(data.columns), log=log, **options):
                if text.text.strip():
                    characters += len(text.text)
                    yield text
                else:
                    empty += 1

        texts = MappedDocuments.from_documents(nonempty_texts())
        noun = "documents" if data.template is None else "targets of prompts"
        if not texts:
            raise UserError(f"{name}: {source}: all {empty} {noun} are empty; name a source that has some")
        omission = f"; {empty:,} empty ones left out" if empty else ""
        log(f"{name}: {source}: {len(texts):,} {noun}, {characters:,} characters{omission}")
        return texts

    def split_dev(
        self, texts: MappedDocuments, fraction: float, seed: int
    ) -> tuple[Sequence[Document], Sequence[Document]]:
        """Splits texts into (train, dev). A single text is cut in two."""
        if len(texts) == 1:
            train, dev = cut_document(texts[0], fraction)
            return [train], [dev]
        chosen = np.array(choose_dev_examples(texts.document_ids, fraction, seed))
        return texts.select(~chosen), texts.select(chosen)

    def iterate_texts(self, train: Sequence[Document]) -> Iterator[str]:
        """Yields prompts with their targets, or documents."""
        return ((text.prompt or "") + text.text for text in train)

    def encode(
        self,
        texts: Sequence[Document],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of texts; see `encode_documents`."""
        data = self._config.data
        return encode_documents(
            texts if only is None else texts[only.start : only.stop],
            processor.tokenizer,
            max_length=data.max_length,
            layout=data.layout,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def check(
        self, split: Split[Document], labels: Sequence[str], train: Sequence[Document], log: Log
    ) -> None:
        """Warns about texts that are also in `train`, and logs the number of pairs that do not fit their windows."""
        name, texts, windows = split.name, split.examples, split.windows
        if texts is not train:
            if shared := count_set_in_any_process(np.isin(hash_documents(texts), hash_documents(train))):
                log(f"warning: {shared:,} of {len(texts):,} texts of {name} stand word for word in train")
        if texts[0].prompt is not None:
            for field, level in (("prompt", ""), ("target", "warning: ")):
                lost_tokens = windows.column(f"{field}_lost")
                if count := np.count_nonzero(lost_tokens):
                    log(
                        f"{level}{name}: {count:,} of {len(texts):,} {field}s are shortened, by {lost_tokens.max()} "
                        "tokens at most, to fit config.data.max_length"
                    )

    def chunk(self, texts: Iterable[Document | None], max_words: int) -> Iterator[Chunk[Document]]:
        """Yields chunks of texts."""
        return chunk_by_words(texts, lambda text: count_words(text.text), max_words)
