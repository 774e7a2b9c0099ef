"""Defines the contracts between a task and the code that trains, evaluates, predicts and exports.

A task is four values, which `jaxft.tasks.registry` makes from a run's settings:

- `TaskData` reads and encodes data. It comes first, because the labels are found in the data.
- `Task` builds the model, and computes its loss and its outputs. Train and evaluation steps trace it.
- `Evaluator` makes predictions of outputs, and measures and reports them. It computes on the host.
- `Answers` makes examples of the records of an input, and records of predictions.

A task chooses the types of its examples and predictions; other code only passes them on. The contracts have defaults
for what only some tasks do, so the classes of a task inherit from them. No task knows the optimizer or the devices.

In shapes, R is the number of rows in a batch, L their length in tokens, S the most segments (windows) in a row, N a
number of windows and C the number of outputs.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.data.batching.batch import Batch, BatchSpec
from jaxft.data.batching.output_positions import OutputRule
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.sources.formats import ExampleKind
from jaxft.data.sources.records.record_values import Record
from jaxft.generation.options import GenerationOptions
from jaxft.hub.processors import Processor
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.pretrained_model import PretrainedModel

Json: TypeAlias = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
# An answer to a record. Long lists are iterators, which make their items while these are written.
Answer: TypeAlias = Mapping[str, "Json | Iterator[Json] | Answer"]
Log: TypeAlias = Callable[[str], None]  # prints one line of the run's log
Arrays: TypeAlias = dict[str, jax.Array]
Outputs: TypeAlias = Iterable[
    tuple[Batch, dict[str, np.ndarray]]
]  # batches with the outputs of `Task.predict`
# Returns the texts that a model generates after prompts of token ids.
Generate: TypeAlias = Callable[[list[list[int]], GenerationOptions], list[str]]

Example = TypeVar("Example")
Encoding = TypeVar("Encoding")  # the windows of a data set, an `Encoded`; None if the examples have none yet
Reader = TypeVar("Reader", bound=Processor)  # makes the model's inputs of examples
Prediction = TypeVar("Prediction", contravariant=True)  # for one example
Predictions = TypeVar("Predictions")  # for all examples of a data set
State = TypeVar("State", bound="MetricState")


class MetricState(Protocol):
    """Holds what an evaluation has measured."""

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name."""


@dataclasses.dataclass(frozen=True)
class Split(Generic[Example, Encoding]):
    """A data set of a run: its examples, in file order, and their encoded windows, which are `Windows` for text."""

    name: str  # "train", "dev", "test"
    source: str  # the source of the examples, for messages and reports
    examples: Sequence[Example]
    windows: Encoding  # None if only the examples are needed


class Chunk(NamedTuple, Generic[Example]):
    """Examples of a stream that are encoded together, and the range of those to predict. The others are context."""

    examples: Sequence[Example]
    predicted: range


class TaskData(Protocol[Example, Encoding, Reader]):
    """Reads and encodes the data of a run. `tasks.reading.TextData` has what tasks that read text share.

    Attributes:
      example_input: a line that `predict` reads, or a prompt of `generate`, for the commands that a run ends with.
    """

    example_input: str

    def read(self, name: str, source: str, log: Log) -> Sequence[Example]:
        """Returns all examples of `source`, and logs their number and content.

        Args:
          name: the name of the data set, "train", "dev" or "test".
          source: the path or address of its files.
          log: prints a line of the log.
        """

    def split_dev(
        self, examples: Sequence[Example], fraction: float, seed: int
    ) -> tuple[Sequence[Example], Sequence[Example]]:
        """Splits off about `fraction` of the examples for evaluation; returns (train, dev)."""

    def find_labels(self, examples: Sequence[Example]) -> Sequence[Json]:
        """Returns what `make_labels` needs to know of these examples' labels, without duplicates.

        If the training data is sharded, each process calls this with its own shards.
        """
        return []

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the names of the head's outputs, in order; none if the model predicts tokens of the vocabulary.

        Args:
          found_labels: the results of `find_labels` for all shards of the training data, concatenated.
        """
        return []

    def open_model(self, train: Sequence[Example]) -> PretrainedModel:
        """Opens the model that the run starts from, without its weights.

        Args:
          train: the training examples; none if the model needs none of them.

        Raises:
          UserError: the model is missing or damaged, or does not fit the task or its rows.
        """

    def load_processor(self, folder: Path) -> Reader:
        """Loads the processor that a run has saved in `folder`. Raises `UserError` if its files are damaged."""

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        processor: Reader,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Encoding:
        """Encodes examples as windows, which have the number of their example.

        Args:
          examples: the examples.
          labels: the names of the head's outputs.
          processor: the model's processor, from `open_model` or `load_processor`.
          only: the range of examples that get windows and are numbered, while the others are context; None for all.
          cached: True if the windows are read from and stored in the cache on disk.
        """

    def encode_train(self, examples: Sequence[Example], labels: Sequence[str], processor: Reader) -> Encoding:
        """Encodes examples to train on. Those of some tasks are then changed at random; by default as all others."""
        return self.encode(examples, labels, processor)

    def check(
        self, split: Split[Example, Encoding], labels: Sequence[str], train: Sequence[Example], log: Log
    ) -> None:
        """Logs warnings about an encoded data set, also in comparison with the training examples."""

    def chunk(self, examples: Iterable[Example | None], max_words: int) -> Iterator[Chunk[Example]]:
        """Yields the examples of a stream in chunks, in order, with the context that they need.

        Args:
          examples: the examples; None where the next one may take long to arrive. Those before it then end a chunk,
            unless they have context that may still arrive.
          max_words: the most words to predict in a chunk, unless a single example has more. One chunk is in memory.
        """


class Task(Protocol):
    """The model of a run: what it is built of, its loss and its outputs.

    Attributes:
      labels: the names of the head's outputs; empty if the model predicts tokens of the vocabulary.
      batch_spec: the arrays of its batches.
      predicts_tokens: True if the outputs are tokens of the vocabulary; the word embeddings are then usually also the
        output layer.
      backbone_passes: number of passes through the backbone in a train step; R-Drop takes two.
    """

    labels: list[str]
    batch_spec: BatchSpec
    predicts_tokens: bool = False
    backbone_passes: int = 1

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module. If it is built on a backbone, that is in its attribute `backbone`.

        Args:
          model_config: the shape of the backbone.
          runtime: how it computes.
          rngs: the random streams that initialize parameters.
        """

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (loss_sum, weight_sum) of a batch, float32 scalars.

        Both are summed over microbatches and devices, and then divided.
        """

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array | Arrays:
        """Returns the logits without dropout, float32: [R, L, C] for tokens or [R, S, C] for segments.

        If several tasks share the backbone, returns those of each task by its name.
        """

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns (outputs, loss_sum, weight_sum) of a batch, without dropout.

        Each output is [R, ...], or is the same for all rows of the batch.
        """

    def output_rule(self, model_config: ModelConfig) -> OutputRule | None:
        """Returns which positions of a backbone of `model_config` the loss reads; None for all."""
        return None

    def head_order(self, hf_config: Mapping[str, object]) -> list[int] | None:
        """Returns, for each of `labels`, its number among the outputs of the head of a checkpoint with `hf_config`.

        Returns None if the checkpoint's head computes something else; see `find_head_order`.
        """
        return None


class Evaluator(Protocol[Example, Encoding, Predictions, State]):
    """Makes predictions of a model's outputs, and measures and reports them.

    Predictions of a task that has `Answers` iterate over one prediction for each example.

    Attributes:
      selection_metric: the metric that chooses the best weights if config.eval.metric is "auto".
      compares_with_train: True if evaluations are compared with the training data; see `find_seen`.
      method: how texts longer than a window are read, for reports; "" if that changes no score.
      tuned: the values that `tune` chose, in JSON types. They are saved with the run and set when the run is opened.
    """

    selection_metric: str
    method: str = ""
    compares_with_train: bool = False
    tuned: Mapping[str, Json]

    def collect(self, split: Split[Example, Encoding], outputs: Outputs) -> Predictions:
        """Returns the predictions for a split, in the order of its examples.

        Args:
          split: the data set.
          outputs: each batch of the split with the outputs of `Task.predict`.
        """

    def add_generated(
        self,
        split: Split[Example, Encoding],
        predictions: Predictions,
        processor: Processor,
        generate: Generate,
    ) -> Predictions:
        """Returns the predictions with the texts that the model generates for a split, if the task generates any."""
        return predictions

    def tune(self, split: Split[Example, Encoding], predictions: Predictions) -> None:
        """Sets `tuned` to values that are chosen rather than trained, such as thresholds.

        It is called once per run, with the predictions of the best weights for dev.
        """

    def measure(
        self, split: Split[Example, Encoding], predictions: Predictions, loss_sum: float, weight_sum: float
    ) -> State:
        """Returns the metric state of predictions."""

    def metric_names(self, split: Split[Example, Encoding]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns the metrics as a line of the log."""

    def find_seen(
        self, split: Split[Example, Encoding], predictions: Predictions, train: Sequence[Example]
    ) -> Sequence[Json]:
        """Returns the items that the evaluation of a split counts as seen in training.

        It is called only if `compares_with_train`. If the training data is sharded, each process calls it with its own
        shards as `train`.
        """
        return []

    def write_evaluation(
        self,
        folder: Path,
        split: Split[Example, Encoding],
        state: State,
        predictions: Predictions,
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes eval/NAME.json and other files for people to read, prints the report, and returns the metrics.

        Args:
          folder: the run's folder.
          split: the evaluated data set.
          state: the result of `measure`.
          predictions: the result of `collect`.
          seen: the results of `find_seen` for all shards of the training data, concatenated.
          samples: number of resamples of the bootstrap for intervals; 0 for no intervals.
          seed: the seed of the bootstrap.
          console: prints the report.
        """


class Answers(Protocol[Example, Prediction]):
    """Makes examples of the records of an input, and records of predictions. Does no input or output.

    Attributes:
      kind: the kind of its examples.
      formats: the formats of inputs that it answers.
      input_keys: keys that records may have.
      text_key: the key of a line of plain text in its record.
      word_column: the column of the words in CoNLL columns; None for the first, or that of a header.
    """

    kind: ExampleKind
    formats: tuple[str, ...]
    input_keys: Sequence[str]
    text_key: str
    word_column: int | None = None

    def list_records(self, source: str, log: Log) -> Iterator[Record] | None:
        """Returns the records of a source that is no file of records, such as a folder of images; None for others."""
        return None

    def parse(self, where: str, origin: str, record: dict[str, Json]) -> Example:
        """Returns the example of a record, without labels. Raises `UserError` if the record is invalid."""

    def keys(self, example: Example | None) -> Sequence[str]:
        """Returns the keys of the answer to an example; None stands for any example of a table."""

    def render(self, example: Example, prediction: Prediction) -> Answer:
        """Returns the answer to an example. A value of many items may be an iterator over them."""

    def format_cell(self, value: Json) -> str:
        """Returns the cell of a table for a value of an answer."""
        return str(value)


# Contracts of a run's task, whichever it is: code that is not a task's only passes examples and predictions on.
AnySplit: TypeAlias = Split[Any, Encoded]
AnyTaskData: TypeAlias = TaskData[Any, Any, Any]
AnyEvaluator: TypeAlias = Evaluator[Any, Any, Any, Any]
AnyAnswers: TypeAlias = Answers[Any, Any]
