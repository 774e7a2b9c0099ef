"""What every task offers the trainer, and the splits of data it prepares."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from jaxft.data.loader import Batch
from jaxft.data.tokenize import Windows
from jaxft.models.layers import DropoutSeed


@dataclasses.dataclass(frozen=True)
class Split:
    """One data set of a run: its examples, in file order, and their encoded windows."""

    name: str  # "train", "dev", "test"
    source: str  # where it came from, for messages and reports
    examples: Sequence[Any]
    windows: Windows


class Task(Protocol):
    """Encodes examples, builds head and model, gives loss, predictions and metrics; knows no optimizer."""

    labels: list[str]

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """The module, body under `body`, from keyword arguments of the body."""

    def loss(
        self, model: nnx.Module, batch: dict[str, jax.Array], dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """(loss_sum, weight_sum), float32 scalars."""

    def predict(
        self, model: nnx.Module, batch: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Predictions, each [rows, ...], and (loss_sum, weight_sum)."""

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Any:
        """One prediction an example of `split`, from the predictions of all its batches."""

    def measure(self, split: Split, predictions: Any, loss_sum: float, weight_sum: float) -> Any:
        """The metric state of `predictions`; `.compute()` gives a flat dict."""

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
