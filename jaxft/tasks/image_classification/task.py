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
from jaxft.tasks.base import Arrays
from jaxft.tasks.checkpoint_heads import find_head_order
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.labels.label_task import LabelTask

# The ends of names of transformers' classes; the second is DeiT's, of which the head of the class token is read.
ARCHITECTURES = ("ForImageClassification", "ForImageClassificationWithTeacher")


class ImageClassification(LabelTask):
    """Predicts labels or numbers for images.

    A row holds one image. The labels of a batch are shares of each label, float32, because images may be mixed.
    """

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        super().__init__(labels, config, head_dropout)
        self.config = config
        size, shape = config.data.image_size, () if config.model.problem_type == NUMBER else (len(labels),)
        number = ArraySpec(np.float32, "row")
        arrays = {
            "pixels": number._replace(shape=(size, size, 3)),
            "labels": number._replace(shape=shape),
            "weights": number,
        }
        self.batch_spec = BatchSpec(arrays, row_length=1, unit="image", unit_mask="weights")

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns an `ImageClassifier` over a backbone of `model_config`."""
        return ImageClassifier(
            cast(ImageBackbone, make_backbone(model_config, runtime, rngs=rngs)),
            num_labels=len(self.labels),
            dropout=self.head_dropout,
            rngs=rngs,
            form=find_head(model_config, HeadKind.IMAGE).form,
        )

    def compute_logits(self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the logits of images, float32 [R, C]."""
        return model(ImageInputs.from_batch(batch), dropout=dropout)

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in a checkpoint's head, if it has the kind of labels as here."""
        problem_type = hf_config.get("problem_type") or SINGLE
        if not problem_type == self.config.model.problem_type != NUMBER:
            return None
        return find_head_order(hf_config, ARCHITECTURES, self.labels)
