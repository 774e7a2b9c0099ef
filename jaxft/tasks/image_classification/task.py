"""Image classification: predicts a label, several labels or a number for each image."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from jaxft.data.batching.batch import BatchSpec
from jaxft.data.encoding.encoded import ArraySpec
from jaxft.data.sources.labels import NUMBER, SINGLE
from jaxft.layers.convolution.inputs import ImageInputs
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.image import ImageBackbone, ImageClassifier
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import find_head, make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.checkpoint_heads import find_head_order
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.label_losses import loss_with_r_drop
from jaxft.tasks.labels.label_types import make_label_type
from jaxft.tasks.labels.number_label import NumberLabel


def encode_targets(targets: np.ndarray, problem_type: str, outputs: int) -> np.ndarray:
    """Returns the targets of a label type as float32 [N, C], of which mixed images have weighted means.

    Args:
      targets: int32 [N], float32 [N, C] or float32 [N], the result of `LabelType.encode_targets`.
      problem_type: the setting `config.model.problem_type`.
      outputs: C.
    """
    if problem_type == SINGLE:
        return np.eye(outputs, dtype=np.float32)[targets]
    return targets.reshape(len(targets), outputs)


class ImageClassification(Task):
    """Predicts labels or numbers for images. `config.model.problem_type` chooses from `LABEL_TYPES`.

    A row holds one image. The labels of a batch are shares of each label, float32, because images may be mixed.
    """

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.config = config
        self.head_dropout = head_dropout
        self.label_type = make_label_type(labels, config)
        size, shape = config.data.image_size, () if config.model.problem_type == NUMBER else (len(labels),)
        number = ArraySpec(np.float32, "row")
        arrays = {
            "pixels": number._replace(shape=(size, size, 3)),
            "labels": number._replace(shape=shape),
            "weights": number,
        }
        self.batch_spec = BatchSpec(arrays, row_length=1, unit="image", unit_mask="weights")
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns an `ImageClassifier` over a backbone of `model_config`."""
        return ImageClassifier(
            cast(ImageBackbone, make_backbone(model_config, runtime, rngs=rngs)),
            num_labels=len(self.labels),
            dropout=self.head_dropout,
            rngs=rngs,
            form=find_head(model_config, HeadKind.IMAGE).form,
        )

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the label type's loss as a weighted sum over images, and the sum of the weights."""
        labels, weights = batch["labels"], batch["weights"]
        return loss_with_r_drop(
            lambda dropout: _logits(model, batch, dropout),
            lambda logits: self.label_type.loss(logits, labels, weights),
            lambda first, second: self.label_type.divergence(first, second, weights),
            self.r_drop,
            dropout,
        )

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the outputs for each image, the only segment of its row, float32 [R, 1, C].

        Numbers are in the data's units.
        """
        logits = _logits(model, batch, None)[:, None]
        label = self.label_type
        return logits * label.scale + label.offset if isinstance(label, NumberLabel) else logits

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns {"logits": float32 [R, 1, C]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits[:, None]}, *self.label_type.loss(logits, batch["labels"], batch["weights"])

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in a checkpoint's head, if it has the kind of labels as here."""
        problem_type = hf_config.get("problem_type") or SINGLE
        if not problem_type == self.config.model.problem_type != NUMBER:
            return None
        return find_head_order(hf_config, "ForImageClassification", self.labels)


def _logits(model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
    return model(ImageInputs.from_batch(batch), dropout=dropout)
