"""Classifies images."""

from typing import Protocol

import jax
from flax import nnx

from jaxft.layers.convolution.inputs import ImageInputs
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.classification import PLAIN_FORM, ClassificationHead, HeadForm


class ImageConfig(Protocol):
    """The shape of a backbone of images, as far as its head reads it."""

    @property
    def hidden_size(self) -> int:
        """D, the width of features."""

    @property
    def initializer_range(self) -> float:
        """The standard deviation of new weights of the head."""


class ImageBackbone(Protocol):
    """A network of images without a head. It is a module of flax."""

    @property
    def config(self) -> ImageConfig:
        """The shape of the backbone."""

    def __call__(self, inputs: ImageInputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the features of each image, `[R, D]`. With a seed of dropout the network trains."""


class ImageClassifier(nnx.Module):
    """An image classifier: a backbone, and a `ClassificationHead` that scores the labels of each image.

    Args:
      backbone: called like `ResNet`.
      num_labels: C.
      dropout: the dropout rate in the head.
      form: the head's layers.
    """

    def __init__(
        self,
        backbone: ImageBackbone,
        *,
        num_labels: int,
        dropout: float,
        rngs: nnx.Rngs,
        form: HeadForm = PLAIN_FORM,
    ):
        self.backbone = backbone
        size, initializer_range = backbone.config.hidden_size, backbone.config.initializer_range
        self.head = ClassificationHead(size, num_labels, form, initializer_range=initializer_range, rngs=rngs)
        self.rate = dropout

    def __call__(self, inputs: ImageInputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of each image, float32 `[R, C]`.

        Args:
          inputs: the batch's arrays.
          dropout: the seed. None for no dropout, and for the running statistics of batch normalization.
        """
        return self.head(self.backbone(inputs, dropout), self.rate, dropout, rows=len(inputs.pixels))
