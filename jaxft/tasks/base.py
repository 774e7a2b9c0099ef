"""What every task offers the trainer and the other verbs, and the splits of data that it prepares."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console

from jaxft.data.batching.batch import ArraySpec, Batch
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.parallel import processes

Log = Callable[[str], None]  # prints one line of the run's log
OTHER_MASKS = np.uint32(0x5BD1E995)  # makes another seed of a step's


@dataclasses.dataclass(frozen=True)
class Split:
    """One data set of a run: its examples, in file order, and their encoded windows."""

    name: str  # "train", "dev", "test"
    source: str  # where it came from, for messages and reports
    examples: Sequence[Any]
    windows: Windows | None  # None where only the examples are asked for


class Task(Protocol):
    """Reads and encodes examples, builds head and model, gives loss, predictions and metrics; knows no optimizer.

    Static methods are what can be asked before the labels are known.
    """

    labels: list[str]  # of the head's outputs; empty where the vocabulary itself is predicted
    architectures: tuple[str, ...]  # model types that it can be trained on
    of_words: bool  # whether texts come cut into words
    predicts_words: bool  # whether the word embeddings are the output layer too
    passes: int  # of a training step through the backbone: R-Drop has two
    compares_with_train: bool  # whether evaluations are compared with the training data, see `compared`
    selection_metric: str  # what "best" means where config.eval.metric is "auto"
    arrays: Mapping[str, ArraySpec]  # of a batch
    segments: int | None  # windows that a row holds at most, where those are labelled; None where tokens are
    tuned: dict[str, Any]  # JSON of what `tune` found, kept with the run; set again when the run is opened

    def __init__(self, labels: list[str], *, head_dropout: float, config: ConfigDict):
        """head_dropout: the rate before the head, for a task that has one."""

    @staticmethod
    def read(config: ConfigDict, name: str, source: str, log: Log) -> list[Any]:
        """All examples of `source`, the data set called `name`; says what was found there."""

    @staticmethod
    def split_dev(examples: Sequence[Any], fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
        """(train, dev): a part of about `fraction` split off for evaluation."""

    @staticmethod
    def labels_in(examples: Sequence[Any]) -> list[Any]:
        """What of examples, perhaps a part of all, determines the labels: JSON values, each once."""

    @staticmethod
    def label_set(found: Sequence[Any]) -> list[str]:
        """The labels that the training data determines, of which `labels_in` gave what was `found` in all parts."""

    @staticmethod
    def texts(train: Sequence[Any]) -> Iterable[str]:
        """The text of the training data, for a new tokenizer."""

    def check(self, split: Split, train: Sequence[Any], log: Log) -> None:
        """Warns of what makes an encoded data set doubtful, beside the training examples."""

    def encode(
        self,
        examples: Sequence[Any],
        tokenizer: Any,
        config: ConfigDict,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Windows of examples (`only` some, the others being context) under the settings."""

    def output_counts(self, windows: Windows) -> np.ndarray | None:
        """How many positions of each window `loss` reads, int64 [N]; None: all.

        What `loss` tells the backbone to be wanted may not be more: of more, some would be left out.
        """

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """The module, backbone under `backbone`, from keyword arguments of the backbone."""

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """(loss_sum, weight_sum), float32 scalars."""

    def logits(self, model: nnx.Module, batch: dict[str, jax.Array]) -> jax.Array:
        """Logits without dropout, float32: of every position [rows, length, classes], or of every segment."""

    def exported(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Parameters by path for a class of transformers, whose logits are then those of `logits`."""

    def predict(
        self, model: nnx.Module, batch: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Predictions, each [rows, ...] or alike for all rows, and (loss_sum, weight_sum)."""

    def prompts(self, examples: Sequence[Any], tokenizer: Any, config: ConfigDict) -> list[list[int]]:
        """Token ids of what is to be continued for each example; empty where nothing is."""

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Any:
        """The predictions of `split` in its own order, from those of all its batches."""

    def tune(self, split: Split, predictions: Any) -> None:
        """Chooses on the dev split, with the best weights, what is not learnt, such as thresholds; fills `tuned`."""

    def measure(self, split: Split, predictions: Any, loss_sum: float, weight_sum: float) -> Any:
        """The metric state of `predictions`; `.compute()` gives a flat dict."""

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""

    def summary(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""

    def compared(self, split: Split, predictions: Any, train: Sequence[Any]) -> list[Any]:
        """What of training examples, perhaps a part of all, an evaluation of `split` is compared with: JSON values.

        Of tasks that `compares_with_train`.
        """

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: Any,
        predictions: Any,
        *,
        compared: Sequence[Any],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes eval/NAME.json and what else there is to read, prints the report, returns the metrics.

        compared: what `compared` gave of all parts of the training data.
        """


def two_passes(
    logits: Callable[[DropoutSeed | None], jax.Array],
    loss: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    divergence: Callable[[jax.Array, jax.Array], jax.Array],
    r_drop: float,
    dropout: DropoutSeed | None,
) -> tuple[jax.Array, jax.Array]:
    """(loss_sum, weight_sum) of `loss` on `logits`, of which with `r_drop` there are two, by different dropout masks:
    the mean of their losses, and so much of their `divergence` (R-Drop, Liang et al. 2021). Of several tasks on one
    backbone each has a second pass of its own."""
    first = logits(dropout)
    total, weight = loss(first)
    if not r_drop or dropout is None:
        return total, weight
    again = logits(dropout._replace(seed=dropout.seed ^ OTHER_MASKS))
    return (total + loss(again)[0]) / 2 + r_drop * divergence(first, again), weight


def class_weights(config: ConfigDict, labels: Sequence[str]) -> np.ndarray | None:
    """float32 [C] of `config.loss.class_weights`, None where there are none; `UserError` for an unknown label."""
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


def chunks(examples: Iterable[Any], words: Callable[[Any], int], most: int) -> Iterator[list[Any]]:
    """Examples in groups of at most `most` words, which `words` counts, or one example; reads one ahead."""
    chunk: list[Any] = []
    held = 0
    for example in examples:
        size = words(example)
        if chunk and held + size > most:
            yield chunk
            chunk, held = [], 0
        chunk.append(example)
        held += size
    if chunk:
        yield chunk


def anywhere(flags: np.ndarray) -> int:
    """How many of `flags`, bool [N], are set in any process: of several each may have a part of the training data."""
    return int(np.count_nonzero(processes.any_process(flags)))


def cache_folder(setting: str | None) -> Path | None:
    """Where encoded data is kept: `config.data.cache_dir`, by default ~/.cache/jaxft/data; None for "off"."""
    if setting == "off":
        return None
    return Path(setting) if setting else Path.home() / ".cache" / "jaxft" / "data"
