"""Reads and encodes documents, or pairs of prompts and targets."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.encoding.documents import encode_documents
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.documents import Document
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Log, Split
from jaxft.tasks.causal_lm.settings import Settings
from jaxft.tasks.reading import DocumentData, cache_folder


class Documents(DocumentData):
    """The documents of a run, or the targets of prompts. The labels of their tokens are the next tokens."""

    _config: Settings
    example_input = "Once upon a time"

    @property
    def template(self) -> str | None:
        """The template of prompts and targets, if there are any."""
        return self._config.data.template

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
            max_length=self._config.text_length,
            prompt_length=self._config.adapter.prompt_length,
            layout=data.layout,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def check(
        self, split: Split[Document, Windows], labels: Sequence[str], train: Sequence[Document], log: Log
    ) -> None:
        """Warns about texts that are also in `train`, and logs the number of pairs that do not fit their windows."""
        super().check(split, labels, train, log)
        name, texts, windows = split.name, split.examples, split.windows
        if texts[0].prompt is not None:
            for field, level in (("prompt", ""), ("target", "warning: ")):
                lost_tokens = windows.column(f"{field}_lost")
                if count := np.count_nonzero(lost_tokens):
                    log(
                        f"{level}{name}: {count:,} of {len(texts):,} {field}s are shortened, by {lost_tokens.max()} "
                        "tokens at most, to fit config.data.max_length"
                    )
