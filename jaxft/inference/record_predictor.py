"""Answers records with a model that stays in memory, for programs; `predict.py` answers files and pipes."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.data.sources import formats
from jaxft.data.sources.files import Log
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.inference.answering import Answering, without_context
from jaxft.inference.input_records import Input, Item
from jaxft.inference.output_formats import choose_names
from jaxft.inference.predict import CHUNK_BATCHES, predict_stream
from jaxft.tasks.lines import complete_lists


class RecordPredictor:
    """The best weights of a run, or adapters, which answer texts and records.

    The programs for one short text, for a few texts and for many are compiled when they are needed first.
    """

    def __init__(self, answering: Answering, log: Log):
        """Reads the weights of a run or of adapters. Raises `UserError` if they are unusable."""
        self._answers, self._log = answering.answers, log
        config = without_context(answering.config)
        self._model = answering.open_model()
        self._data, self._outputs = answering.make_data(config), self._model.make_predictor()
        self._max_words = CHUNK_BATCHES * self._model.rows * config.data.max_length

    def is_content(self, value: object) -> bool:
        """Returns whether a value is a text, or an image (its path, bytes, pixels, one of Pillow), and no record."""
        if isinstance(value, os.PathLike):
            return "files" in self._answers.formats
        # Asked of the type: an image of Pillow makes its array when it is asked.
        return isinstance(value, str | bytes) or hasattr(type(value), "__array_interface__")

    def predict(self, data: Any) -> Iterator[dict[str, Any]]:
        """Yields each record with its answer added, under the keys of `jaxft predict`.

        Args:
          data: a list of texts, images or records, a pandas DataFrame or a `datasets.Dataset`. Records have the keys
            that the run was trained on; labels are not read.

        Raises:
          UserError: a record lacks a text, or an answer would overwrite a value of it.
        """
        if isinstance(data, Sequence):
            if not data:
                return
            data = [{self._answers.text_key: item} if self.is_content(item) else item for item in data]
        kept = InMemoryRecords("input", data)
        kind, log = self._answers.kind, self._log
        [source] = formats.resolve_source(kept.address, kind, formats.UNSET, log)
        records = Input(source, kind, None, log)
        waiting: deque[Item] = deque()

        def parse() -> Iterator[Any]:
            for item in records.read(self._answers.text_key):
                assert item is not None  # nothing is waited for
                example = self._answers.parse(item.where, item.origin, item.value)
                records.check(example, item.where)
                waiting.append(item)
                yield example

        for chunk in predict_stream(
            self._model, self._data, self._outputs, parse(), max_words=self._max_words
        ):
            for example, prediction in chunk:
                item, answer = waiting.popleft(), self._answers.render(example, prediction)
                names = choose_names(answer, item.value, item.where)
                yield item.value | {names[key]: complete_lists(value) for key, value in answer.items()}
