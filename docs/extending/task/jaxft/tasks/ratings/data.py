"""Reads and encodes texts with ratings."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import split_dev_labelled
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, read_labelled_texts
from jaxft.data.sources.labels import NUMBER, LabelRules
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log
from jaxft.tasks.ratings.settings import Settings
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words
from jaxft.tasks.settings import make_file_format


class RatedTexts(TextData[LabelledText]):
    """The texts of a run, each with a rating."""

    example_input = "The room was clean and quiet."
    _config: Settings

    def read(self, name: str, source: str, log: Log) -> list[LabelledText]:
        """Returns the texts of `source`. Raises `UserError` for a rating that is none."""
        data = self._config.data
        columns, rules = TextColumns(data.text, None, data.rating), LabelRules(NUMBER)
        examples = list(
            read_labelled_texts(source, columns=columns, rules=rules, format=make_file_format(data), log=log)
        )
        for example in examples:
            if example.label not in range(1, data.highest + 1):
                raise UserError(
                    f"{example.origin}: {data.rating} is {example.label:g}; expected a whole number from 1 to "
                    f"{data.highest}, which config.data.highest sets"
                )
        log(f"{name}: {source}: {len(examples):,} texts")
        return examples

    def split_dev(
        self, examples: Sequence[LabelledText], fraction: float, seed: int
    ) -> tuple[list[LabelledText], list[LabelledText]]:
        """Splits examples into (train, dev)."""
        return split_dev_labelled(examples, [example.text for example in examples], fraction, seed)

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the names of the head's outputs: is the rating above 1, above 2, ...?"""
        return [f"above {rating}" for rating in range(1, self._config.data.highest)]

    def iterate_texts(self, train: Sequence[LabelledText]) -> Iterator[str]:
        """Yields the texts."""
        return (example.text for example in train)

    def encode(
        self,
        examples: Sequence[LabelledText],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns a window for each text, with a 0 or 1 for each of `labels`."""
        examples, data = examples if only is None else examples[only.start : only.stop], self._config.data
        ratings = np.array([example.label or 0 for example in examples])
        return encode_labelled_texts(
            examples,
            (ratings[:, None] > np.arange(1, data.highest)).astype(np.float32),
            ratings > 0,
            processor.tokenizer,
            max_length=data.max_length,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def chunk(self, examples: Iterable[LabelledText | None], max_words: int) -> Iterator[Chunk[LabelledText]]:
        """Yields chunks of texts."""
        return chunk_by_words(examples, lambda example: 1 + len(example.text.split()), max_words)
