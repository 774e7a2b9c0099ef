"""Answers records with a model that stays in memory, for programs; `predict.py` answers files and pipes."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxft.config.settings import replace
from jaxft.data.sources import formats
from jaxft.data.sources.files import Log
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.inference.input_records import Input, Item
from jaxft.inference.model import open_model
from jaxft.inference.output_formats import choose_names
from jaxft.inference.predict import CHUNK_BATCHES, predict_stream, require_answers
from jaxft.tasks.lines import complete_lists
from jaxft.tasks.registry import make_data
from jaxft.training.run_folder.workdir import open_run


class RecordPredictor:
    """The best weights of a run, which answer texts and records.

    The programs for one short text, for a few texts and for many are compiled when they are needed first.
    """

    def __init__(self, run_folder: Path, log: Log):
        """Opens a run. Raises `UserError` if it is unusable, or generates text instead of answering records."""
        run = open_run(run_folder)
        self._answers, self._log = require_answers(run), log
        config = run.config
        if getattr(config.data, "context", False):
            config = replace(config, {"data.context": False})  # each record is a document of its own
        self._model = open_model(run, log)
        self._data, self._outputs = make_data(config), self._model.make_predictor()
        self._max_words = CHUNK_BATCHES * self._model.rows * config.data.max_length

    def predict(self, data: Any) -> Iterator[dict[str, Any]]:
        """Yields each record with its answer added, under the keys of `jaxft predict`.

        Args:
          data: a list of texts or records, a pandas DataFrame or a `datasets.Dataset`. Records have the keys that the
            run was trained on; labels are not read.

        Raises:
          UserError: a record lacks a text, or an answer would overwrite a value of it.
        """
        if isinstance(data, Sequence):
            if not data:
                return
            data = [{self._answers.text_key: item} if isinstance(item, str) else item for item in data]
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
