"""Reads, encodes and answers records of which each names its adapter, by the data and the answers of each adapter."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.windows import Windows, join_windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.errors import UserError, list_names
from jaxft.hub.processors import Processor
from jaxft.tasks.base import (
    Answer,
    Answers,
    AnyAnswers,
    AnyEvaluator,
    AnyTaskData,
    Chunk,
    Json,
    Outputs,
    Split,
)
from jaxft.tasks.run_facts import AnyRunFacts

ADAPTER = "adapter"  # the array of batches that says which adapter a segment uses
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "text")  # whose records may have a key for the adapter
TABLES = ("csv", "tsv")  # in which all answers have the same columns


class AdaptedExample(NamedTuple):
    """An example, and the number of its adapter."""

    adapter: int
    example: Any


class AdapterWindows(NamedTuple):
    """The windows of the texts of an adapter.

    Attributes:
      adapter: the number of the adapter.
      members: the index of each of its examples among all.
      windows: their windows, which number these examples from 0.
    """

    adapter: int
    members: list[int]
    windows: Windows


@dataclasses.dataclass(frozen=True)
class MixedWindows(Windows):
    """The windows of texts of several adapters, those of each adapter next to each other, as `by_adapter` has them."""

    by_adapter: Sequence[AdapterWindows] = ()


class MixedData:
    """Encodes the texts of several adapters, each as its training did: what predictions need of a `TaskData`.

    Args:
      data: the data of each adapter.
      runs: the runs that trained the adapters.
    """

    def __init__(self, data: Sequence[AnyTaskData], runs: Sequence[AnyRunFacts]):
        self._data, self._runs = data, runs

    def chunk(
        self, examples: Iterable[AdaptedExample | None], max_words: int
    ) -> Iterator[Chunk[AdaptedExample]]:
        """Yields chunks of consecutive examples, which have no context."""
        waiting: deque[AdaptedExample] = deque()

        def unwrap() -> Iterator[Any]:
            for adapted in examples:
                if adapted is not None:
                    waiting.append(adapted)
                yield None if adapted is None else adapted.example

        for chunk in self._data[0].chunk(unwrap(), max_words):
            yield Chunk([waiting.popleft() for _ in chunk.examples], chunk.predicted)

    def encode(
        self,
        examples: Sequence[AdaptedExample],
        labels: Sequence[str],
        processor: Processor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> MixedWindows:
        """Returns the windows of all examples. Labels and processor are those of each adapter."""
        members: dict[int, list[int]] = {}
        for index, adapted in enumerate(examples):
            members.setdefault(adapted.adapter, []).append(index)
        by_adapter = []
        for number, indices in sorted(members.items()):
            data, run = self._data[number], self._runs[number]
            of_adapter = [examples[index].example for index in indices]
            windows = data.encode(of_adapter, run.labels, run.checkpoint.processor, cached=False)
            by_adapter.append(AdapterWindows(number, indices, windows))
        return MixedWindows(join_windows(list(map(_make_inputs, by_adapter))).record_batch, by_adapter)


def _make_inputs(table: AdapterWindows) -> Windows:
    """Returns what a backbone reads of an adapter's windows, with the number of the adapter."""
    windows = table.windows
    offsets = offsets_from_lengths(windows.lengths)
    has_types = windows.has_column("token_type_ids")
    types = windows.column("token_type_ids") if has_types else np.zeros_like(windows.input_ids)
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values))
        for name, values in (("input_ids", windows.input_ids), ("token_type_ids", types))
    }
    columns["sentence"] = pa.array(np.array(table.members, np.int32)[windows.sentence])
    columns[ADAPTER] = pa.array(np.full(len(windows), table.adapter, np.int32))
    return Windows(pa.RecordBatch.from_pydict(columns))


class MixedEvaluator:
    """Makes the predictions for texts of several adapters, by their evaluators: what predictions need of one."""

    def __init__(self, evaluators: Sequence[AnyEvaluator]):
        self._evaluators = evaluators

    def collect(self, split: Split[AdaptedExample, MixedWindows], outputs: Outputs) -> list[Any]:
        """Returns the predictions for all examples, in their order."""
        batches = [(batch._replace(arrays={}), arrays) for batch, arrays in outputs]
        predictions: list[Any] = [None] * len(split.examples)
        first = 0
        for number, members, windows in split.windows.by_adapter:
            examples = [split.examples[index].example for index in members]
            of_adapter = _select_outputs(batches, number, first, first + len(windows))
            collected = self._evaluators[number].collect(
                Split(split.name, split.source, examples, windows), of_adapter
            )
            for index, prediction in zip(members, collected, strict=True):
                predictions[index] = prediction
            first += len(windows)
        return predictions


def _select_outputs(batches: Outputs, number: int, first: int, end: int) -> Outputs:
    """Yields batches with the windows from `first` up to `end` alone, numbered from 0, and an adapter's outputs."""
    prefix = f"{number}/"
    for batch, arrays in batches:
        is_selected = (batch.windows >= first) & (batch.windows < end)
        windows = np.where(is_selected, batch.windows - first, -1)
        selected = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        yield batch._replace(windows=windows), selected


class MixedAnswers(Answers[AdaptedExample, Any]):
    """The examples and answers of several adapters. A key of a record names its adapter.

    Args:
      names: the names of the adapters; "" is that of records that name none.
      answers: the answers of each adapter.
      field: the key.
    """

    def __init__(self, names: Sequence[str], answers: Sequence[AnyAnswers], field: str):
        self._names, self._answers, self._field = names, answers, field
        self.kind, self.text_key = answers[0].kind, answers[0].text_key
        keys = [tuple(each.keys(None)) for each in answers]
        self.formats = tuple(
            name
            for name in FORMATS
            if all(name in each.formats for each in answers) and (name not in TABLES or len(set(keys)) == 1)
        )
        self.input_keys = [field, *dict.fromkeys(key for each in answers for key in each.input_keys)]

    def parse(self, where: str, origin: str, record: Mapping[str, Any]) -> AdaptedExample:
        """Returns the example of a record. Raises `UserError` if it names no adapter that is here."""
        name = record.get(self._field)
        name = "" if name is None else name
        if name not in self._names:
            state, hint = f"its {self._field!r} is {name!r}", ""
            if name == "":
                state = f"has no {self._field!r}"
                hint = "; --run RUN, or an --adapter without a name, answers records that name none"
            names = list_names([repr(known) for known in self._names if known])
            raise UserError(f"{where}: {state}; expected the name of an adapter: {names}{hint}")
        number = self._names.index(name)
        return AdaptedExample(number, self._answers[number].parse(where, origin, dict(record)))

    def keys(self, example: AdaptedExample | None) -> Sequence[str]:
        """Returns the keys of the answer to an example, or in any table."""
        return (
            self._answers[0].keys(None)
            if example is None
            else self._answers[example.adapter].keys(example.example)
        )

    def render(self, example: AdaptedExample, prediction: Any) -> Answer:
        """Returns the answer to an example, by its adapter."""
        return self._answers[example.adapter].render(example.example, prediction)

    def format_cell(self, value: Json) -> str:
        """Returns the cell of a table for a value of an answer."""
        return self._answers[0].format_cell(value)
