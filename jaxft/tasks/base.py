"""Defines `Task`, the contract between a task and everything that trains, evaluates, predicts or exports with it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import ArraySpec, Batch
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.parallel import processes

Log = Callable[[str], None]  # prints one line of the run's log
SECOND_PASS = np.uint32(0x5BD1E995)  # turns a step's dropout seed into that of R-Drop's second pass


@dataclasses.dataclass(frozen=True)
class Split:
    """A data set of a run: its examples, in file order, and the windows they are encoded in."""

    name: str  # "train", "dev", "test"
    source: str  # where the examples came from, for messages and reports
    examples: Sequence[Any]
    windows: Windows | None  # None where only the examples are needed


class Task(Protocol):
    """The contract of a task: its data and their encoding, its head and loss, its predictions and metrics.

    A task is a plain class with these attributes and methods; `jaxft.tasks.registry` lists it. The
    trainer calls them in this order:

    1. Data: `read`, `split_dev`, `find_labels` and `make_labels`. These are static, because an instance needs the
       labels that they find. Then `encode` and `check`, for each data set.
    2. Model: `build_model` once; `loss` in every train step and `predict` in every evaluation step, both under jit.
    3. Evaluation, on the host: `collect`, `measure` and `summarize`; at the end of the run also `tune`, on dev, and
       `write_evaluation`.

    A task knows neither the optimizer nor the devices. An example is whatever `read` returns, and a prediction
    whatever `collect` does: other code only passes them on.

    The shapes below use R for the rows of a batch, L for their length in tokens, S for the segments (windows) that a
    row holds at most, N for a number of windows and C for the number of outputs.

    Attributes:
      labels: names of the head's outputs; empty if the model predicts tokens of the vocabulary.
      model_types: the model types that the task can train.
      reads_words: True if texts come as lists of words.
      predicts_tokens: True if the word embeddings are the output layer too.
      backbone_passes: passes through the backbone in a train step; R-Drop takes two.
      compares_with_train: True if evaluations are compared with the training data; see `find_seen`.
      selection_metric: the metric that chooses the best weights if config.eval.metric is "auto".
      arrays: the arrays of a batch by name.
      max_segments: segments that a row holds at most if labels belong to segments; None if they belong to tokens.
      tuned: what `tune` chose, as JSON values. It is saved with the run and set when the run is opened.
    """

    labels: list[str]
    model_types: tuple[str, ...]
    reads_words: bool
    predicts_tokens: bool
    backbone_passes: int
    compares_with_train: bool
    selection_metric: str
    arrays: Mapping[str, ArraySpec]
    max_segments: int | None
    tuned: dict[str, Any]

    def __init__(self, labels: list[str], *, head_dropout: float, config: Settings):
        """Makes the task of a run.

        Args:
          labels: what `make_labels` returned.
          head_dropout: dropout rate before the head, for a task that has one.
          config: the run's settings.
        """

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[Any]:
        """Returns all examples of `source` and logs their number and what they contain.

        Args:
          name: name of the data set, "train", "dev" or "test".
          source: path or address of its files.
        """

    @staticmethod
    def split_dev(examples: Sequence[Any], fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
        """Splits about `fraction` of the examples off for evaluation; returns (train, dev)."""

    @staticmethod
    def find_labels(examples: Sequence[Any]) -> list[Any]:
        """Returns what the labels of these examples are, as JSON values without duplicates.

        If the training data is sharded, each process calls this with its own shards.
        """

    @staticmethod
    def make_labels(found_labels: Sequence[Any]) -> list[str]:
        """Returns the names of the head's outputs, in order.

        Args:
          found_labels: what `find_labels` returned for each shard of the training data, one after another.
        """

    @staticmethod
    def iterate_texts(train: Sequence[Any]) -> Iterable[str]:
        """Yields the text of the training data, which a new tokenizer is trained on."""

    def check(self, split: Split, train: Sequence[Any], log: Log) -> None:
        """Logs warnings about an encoded data set, by itself or compared with the training examples."""

    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: Any,
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of examples.

        Args:
          only: the examples that get windows, the others being their context; None for all.
          cached: False if the windows are neither looked up in the cache on disk nor stored there.
        """

    def output_counts(self, windows: Windows) -> np.ndarray | None:
        """Returns how many positions of each window `loss` reads, int64 [N]; None for all.

        It must not be less than the number of positions in the output mask that `loss` passes to the backbone, because
        the backbone would leave out those in excess.
        """

    # ---------------------------------------------------------------- model

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module, with its backbone in the attribute `backbone`.

        Args:
          sizes: keyword arguments of the backbone.
        """

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (loss_sum, weight_sum), float32 scalars, of a batch.

        Both are summed over microbatches and devices before one is divided by the other.
        """

    def logits(self, model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
        """Returns the logits without dropout, float32: of each token [R, L, C] or of each segment [R, S, C]."""

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns parameters by path for transformers' class, which then computes the values of `logits`."""

    def predict(
        self, model: nnx.Module, batch: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Returns (outputs, loss_sum, weight_sum) of a batch, without dropout.

        Each output is [R, ...], or the same for all rows of the batch.
        """

    def encode_prompts(self, examples: Sequence[Any], tokenizer: Any, config: Settings) -> list[list[int]]:
        """Returns the token ids of the prompt of each example; an empty list if the task generates nothing."""

    # ---------------------------------------------------------------- evaluation

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Any:
        """Returns the predictions for a split, in the order of its examples.

        Args:
          outputs: each batch of the split with the outputs of `predict`.
        """

    def tune(self, split: Split, predictions: Any) -> None:
        """Sets `tuned` to what is chosen rather than learnt, such as thresholds.

        It is called once a run, with the best weights' predictions for dev.
        """

    def measure(self, split: Split, predictions: Any, loss_sum: float, weight_sum: float) -> Any:
        """Returns the metric state of predictions; its `compute()` returns a flat dict."""

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""

    def summarize(self, values: dict[str, float]) -> str:
        """Returns the metrics as a line of the log shows them."""

    def find_seen(self, split: Split, predictions: Any, train: Sequence[Any]) -> list[Any]:
        """Returns what the evaluation of a split counts as seen in training, as JSON values.

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
          state: what `measure` returned.
          seen: what `find_seen` returned for each shard of the training data, one after another.
          samples: resamples of the bootstrap that gives intervals; 0 for no intervals.
          seed: seed of the bootstrap.
        """


def loss_with_r_drop(
    logits: Callable[[DropoutSeed | None], jax.Array],
    loss: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    divergence: Callable[[jax.Array, jax.Array], jax.Array],
    r_drop: float,
    dropout: DropoutSeed | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (loss_sum, weight_sum) of `loss` on `logits`, with R-Drop (Liang et al. 2021) if `r_drop` is not 0.

    R-Drop computes the logits twice, under two dropout masks. The loss is the mean over both plus `r_drop` times their
    `divergence`. Where several tasks share a backbone, each has a second pass of its own.
    """
    first = logits(dropout)
    total, weight = loss(first)
    if not r_drop or dropout is None:
        return total, weight
    second = logits(dropout._replace(seed=dropout.seed ^ SECOND_PASS))
    return (total + loss(second)[0]) / 2 + r_drop * divergence(first, second), weight


def read_class_weights(config: Settings, labels: Sequence[str]) -> np.ndarray | None:
    """Returns `config.loss.class_weights` as float32 [C], or None if there are none.

    Raises:
      UserError: a weight is for an unknown label.
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
    """Yields consecutive examples in groups of at most `max_words` words, or of one example; reads one ahead."""
    group: list[Any] = []
    words_in_group = 0
    for example in examples:
        words = count_words(example)
        if group and words_in_group + words > max_words:
            yield group
            group, words_in_group = [], 0
        group.append(example)
        words_in_group += words
    if group:
        yield group


def count_set_in_any_process(flags: np.ndarray) -> int:
    """Counts the `flags`, bool [N], that are set in any process.

    Each process may hold other shards of the training data, so each finds only some.
    """
    return int(np.count_nonzero(processes.any_process(flags)))


def cache_folder(cache_dir: str | None) -> Path | None:
    """Returns the folder of encoded data that `config.data.cache_dir` means: by default ~/.cache/jaxft/data.

    None, for "off", means that nothing is kept.
    """
    if cache_dir == "off":
        return None
    return Path(cache_dir) if cache_dir else Path.home() / ".cache" / "jaxft" / "data"
