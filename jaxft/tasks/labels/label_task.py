"""Has what tasks with labels share: the loss and the outputs of a label type, on the logits of a task's model."""

import abc

import jax
import numpy as np
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.label_losses import loss_with_r_drop
from jaxft.tasks.labels.label_types import make_label_type
from jaxft.tasks.labels.number_label import NumberLabel
from jaxft.tasks.labels.settings import LabelSettings


class LabelTask(Task):
    """Predicts labels or numbers. `config.model.problem_type` chooses from `LABEL_TYPES`."""

    def __init__(self, labels: list[str], config: LabelSettings, head_dropout: float):
        self.labels = labels
        self.head_dropout = head_dropout
        self.label_type = make_label_type(labels, config)
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1

    @abc.abstractmethod
    def compute_logits(self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the logits of a batch, float32 [R, S, C], or [R, C] if a row holds one example."""

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the label type's loss as a weighted sum over windows or images, and the sum of the weights."""
        labels, weights = batch["labels"], batch["weights"]
        return loss_with_r_drop(
            lambda dropout: self.compute_logits(model, batch, dropout),
            lambda logits: self.label_type.loss(logits, labels, weights),
            lambda first, second: self.label_type.divergence(first, second, weights),
            self.r_drop,
            dropout,
        )

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the outputs for each segment without dropout, float32 [R, S, C]. Numbers are in the data's units."""
        logits = _by_segment(self.compute_logits(model, batch, None))
        label = self.label_type
        return logits * label.scale + label.offset if isinstance(label, NumberLabel) else logits

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns {"logits": float32 [R, S, C]}, and the loss."""
        logits = self.compute_logits(model, batch, None)
        loss = self.label_type.loss(logits, batch["labels"], batch["weights"])
        return {"logits": _by_segment(logits)}, *loss

    def to_data_units(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, by path, with a head whose numbers are in the data's units."""
        label = self.label_type
        return label.to_data_units(parameters) if isinstance(label, NumberLabel) else parameters


def _by_segment(logits: jax.Array) -> jax.Array:
    """Returns [R, S, C]; an example that has its row alone is its only segment."""
    return logits[:, None] if logits.ndim == 2 else logits
