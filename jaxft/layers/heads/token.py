"""Classifies each token."""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import Backbone
from jaxft.layers.heads.classification import PLAIN_FORM, ClassificationHead, HeadForm
from jaxft.layers.inputs import Inputs


class TokenClassifier(nnx.Module):
    """A token classifier: a backbone, and a `ClassificationHead` that scores the labels of each token.

    Args:
      backbone: called like `Bert`; has its width in `config.hidden_size`.
      num_labels: C.
      dropout: the dropout rate in the head.
      initializer_range: the standard deviation of the head's new weights.
      form: the head's layers.
      head_class: the head's class, constructed like `ClassificationHead`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_labels: int,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        form: HeadForm = PLAIN_FORM,
        head_class: type[ClassificationHead] = ClassificationHead,
    ):
        self.backbone = backbone
        self.head = head_class(
            backbone.config.hidden_size, num_labels, form, initializer_range=initializer_range, rngs=rngs
        )
        self.rate = dropout

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of each token.

        Args:
          inputs: the batch's arrays.
          dropout: the seed; None for no dropout.

        Returns:
          float32 `[R, L, C]`. Logits at padding, and where the backbone computes no state, are undefined.
        """
        x = self.backbone(inputs, dropout)
        rows, length, size = x.shape
        scores = self.head(x.reshape(rows * length, size), self.rate, dropout, rows=rows)
        return scores.reshape(rows, length, -1)
