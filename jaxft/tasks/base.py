"""Defines `Task`, the contract between a task and the code that trains, evaluates, predicts and exports."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, BatchSpec
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.io.stores import refuse_address
from jaxft.layers.dropout import DropoutSeed
from jaxft.models.model_config import ModelConfig
from jaxft.models.runtime import Runtime
from jaxft.parallel import processes

Log = Callable[[str], None]  # prints one line of the run's log
SECOND_PASS = np.uint32(0x5BD1E995)  # XORed with a step's dropout seed for R-Drop's second pass


@dataclasses.dataclass(frozen=True)
class Split:
    """A data set of a run: its examples, in file order, and their encoded windows."""

    name: str  # "train", "dev", "test"
    source: str  # the source of the examples, for messages and reports
    examples: Sequence[Any]
    windows: Windows | None  # None if only the examples are needed


class Task(Protocol):
    """The contract of a task: its data and encoding, its head and loss, its predictions and metrics.

    A task is a plain class with these attributes and methods, which `jaxft.tasks.registry` lists. The trainer calls the
    methods in this order:

    1. Data: `read`, `split_dev`, `find_labels` and `make_labels`. These are static, because an instance needs the
       labels that they find. Then `encode` and `check` for each data set.
    2. Model: `build_model` once; `loss` in every train step and `predict` in every evaluation step, both under jit.
    3. Evaluation, on the host: `collect`, `measure` and `summarize`. At the end of the run also `tune`, on dev, and
       `write_evaluation`.

    A task knows neither the optimizer nor the devices. `read` chooses the type of examples, and `collect` the type of
    predictions; other code only passes them on.

    In the shapes below, R is the number of rows in a batch, L their length in tokens, S the most segments (windows) in
    a row, N a number of windows and C the number of outputs.

    Attributes:
      labels: the names of the head's outputs; empty if the model predicts tokens of the vocabulary.
      model_types: the model types that the task can train.
      reads_words: True if texts are lists of words.
      predicts_tokens: True if the word embeddings are also the output layer.
      backbone_passes: number of passes through the backbone in a train step; R-Drop takes two.
      compares_with_train: True if evaluations are compared with the training data; see `find_seen`.
      selection_metric: the metric that chooses the best weights if config.eval.metric is "auto".
      example_input: a line that `predict` reads, or a prompt of `generate`, for the commands that a run ends with.
      batch_spec: the arrays of its batches.
      tuned: the values that `tune` chose, in JSON types. They are saved with the run and set when the run is opened.
    """

    labels: list[str]
    model_types: tuple[str, ...]
    reads_words: bool
    predicts_tokens: bool
    backbone_passes: int
    compares_with_train: bool
    selection_metric: str
    example_input: str
    batch_spec: BatchSpec
    tuned: dict[str, Any]

    def __init__(self, labels: list[str], *, head_dropout: float, config: Settings):
        """Makes the task of a run.

        Args:
          labels: the result of `make_labels`.
          head_dropout: the dropout rate before the head, if the task has a head.
          config: the run's settings.
        """

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[Any]:
        """Returns all examples of `source`, and logs their number and content.

        Args:
          config: the run's settings.
          name: the name of the data set, "train", "dev" or "test".
          source: the path or address of its files.
          log: prints a line of the log.
        """

    @staticmethod
    def split_dev(examples: Sequence[Any], fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
        """Splits off about `fraction` of the examples for evaluation; returns (train, dev)."""

    @staticmethod
    def find_labels(examples: Sequence[Any]) -> list[Any]:
        """Returns what `make_labels` needs to know of these examples' labels, as JSON values without duplicates.

        If the training data is sharded, each process calls this with its own shards.
        """

    @staticmethod
    def make_labels(found_labels: Sequence[Any]) -> list[str]:
        """Returns the names of the head's outputs, in order.

        Args:
          found_labels: the results of `find_labels` for all shards of the training data, concatenated.
        """

    @staticmethod
    def iterate_texts(train: Sequence[Any]) -> Iterable[str]:
        """Yields the text of the training data, to train a new tokenizer on."""

    def check(self, split: Split, train: Sequence[Any], log: Log) -> None:
        """Logs warnings about an encoded data set, also in comparison with the training examples."""

    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: Any,
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Encodes examples as windows.

        Args:
          examples: the examples.
          tokenizer: the tokenizer.
          config: the run's settings.
          only: the range of examples that get windows, while the others are context; None for all.
          cached: True if the windows are read from and stored in the cache on disk.
        """

    def output_counts(self, windows: Windows) -> np.ndarray | None:
        """Returns the number of positions of each window that `loss` reads, int64 [N]; None for all positions.

        It must be at least the number of positions in the output mask that `loss` passes to the backbone, because the
        backbone drops positions in excess.
        """

    # ---------------------------------------------------------------- model

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module, with its backbone in the attribute `backbone`.

        Args:
          model_config: the shape of the backbone.
          runtime: how it computes.
          rngs: the random streams that initialize parameters.
        """

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (loss_sum, weight_sum) of a batch, float32 scalars.

        Both are summed over microbatches and devices, and then divided.
        """

    def logits(self, model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
        """Returns the logits without dropout, float32: [R, L, C] for tokens or [R, S, C] for segments."""

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns, for each of `labels`, its number among the outputs of the head of a checkpoint with `hf_config`.

        Returns None if the checkpoint's head computes something else; see `find_head_order`.
        """

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, by path, with which transformers' class computes the values of `logits`."""

    def predict(
        self, model: nnx.Module, batch: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Returns (outputs, loss_sum, weight_sum) of a batch, without dropout.

        Each output is [R, ...], or is the same for all rows of the batch.
        """

    def encode_prompts(self, examples: Sequence[Any], tokenizer: Any, config: Settings) -> list[list[int]]:
        """Returns the token ids of each example's prompt; an empty list if the task generates no text."""

    # ---------------------------------------------------------------- evaluation

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Any:
        """Returns the predictions for a split, in the order of its examples.

        Args:
          outputs: each batch of the split with the outputs of `predict`.
        """

    def tune(self, split: Split, predictions: Any) -> None:
        """Sets `tuned` to values that are chosen rather than trained, such as thresholds.

        It is called once per run, with the predictions of the best weights for dev.
        """

    def measure(self, split: Split, predictions: Any, loss_sum: float, weight_sum: float) -> Any:
        """Returns the metric state of predictions; its `compute()` returns a flat dict."""

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""

    def summarize(self, values: dict[str, float]) -> str:
        """Returns the metrics as a line of the log."""

    def find_seen(self, split: Split, predictions: Any, train: Sequence[Any]) -> list[Any]:
        """Returns the items that the evaluation of a split counts as seen in training, as JSON values.

        It is called only if `compares_with_train`. If the training data is sharded, each process calls it with its own
        shards as `train`.
        """

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: Any,
        predictions: Any,
        *,
        seen: Sequence[Any],
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


def loss_with_r_drop(
    logits: Callable[[DropoutSeed | None], jax.Array],
    loss: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    divergence: Callable[[jax.Array, jax.Array], jax.Array],
    r_drop: float,
    dropout: DropoutSeed | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (loss_sum, weight_sum) of `loss` on `logits`, with R-Drop (Liang et al. 2021) if `r_drop` is not 0.

    R-Drop computes the logits twice, with two dropout masks. The loss is the mean of both losses plus `r_drop` times
    the `divergence` of the logits. If several tasks share a backbone, each task makes its own second pass.
    """
    first = logits(dropout)
    total, weight = loss(first)
    if not r_drop or dropout is None:
        return total, weight
    second = logits(dropout._replace(seed=dropout.seed ^ SECOND_PASS))
    return (total + loss(second)[0]) / 2 + r_drop * divergence(first, second), weight


def has_head(hf_config: Mapping[str, Any], architecture: str) -> bool:
    """Returns whether a checkpoint is one of transformers' classes whose names end in `architecture`."""
    return any(str(name).endswith(architecture) for name in hf_config.get("architectures") or ())


def find_head_order(
    hf_config: Mapping[str, Any], architecture: str, labels: Sequence[str]
) -> list[int] | None:
    """Returns the number of each of `labels` among the outputs of a checkpoint's head.

    Args:
      hf_config: the checkpoint's config.json.
      architecture: the end of the name of transformers' class for the task, such as "ForTokenClassification".
      labels: the names of the run's outputs.

    Returns:
      The numbers, in the order of `labels`; None if the head is another class's or has other labels.
    """
    names = hf_config.get("id2label") or {}
    numbers = {str(label): int(number) for number, label in names.items()}
    if not has_head(hf_config, architecture) or numbers.keys() != set(labels) or len(names) != len(labels):
        return None
    return [numbers[label] for label in labels]


def read_class_weights(config: Settings, labels: Sequence[str]) -> np.ndarray | None:
    """Returns `config.loss.class_weights` as float32 [C], or None if there are none.

    Raises:
      UserError: a weight names an unknown label.
    """
    if not config.loss.class_weights:
        return None
    weights = np.ones(len(labels), np.float32)
    for label, weight in config.loss.class_weights:
        if label not in labels:
            raise UserError(
                f"config.loss.class_weights names {label!r}, which is no label of the training data; "
                f"labels: {', '.join(labels)}"
            )
        weights[labels.index(label)] = weight
    return weights


def group_by_words(
    examples: Iterable[Any], count_words: Callable[[Any], int], max_words: int
) -> Iterator[list[Any]]:
    """Yields groups of consecutive examples, each of at most `max_words` words or a single example. Reads one ahead.

    None among the examples ends a group: the next example may take long to arrive.
    """
    group: list[Any] = []
    words_in_group = 0
    for example in examples:
        words = 0 if example is None else count_words(example)
        if group and (example is None or words_in_group + words > max_words):
            yield group
            group, words_in_group = [], 0
        if example is None:
            continue
        group.append(example)
        words_in_group += words
    if group:
        yield group


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
