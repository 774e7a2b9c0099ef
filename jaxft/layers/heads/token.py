"""Classifies each token."""

import jax
from flax import nnx

from jaxft.layers.dropout import HEAD_SITE, DropoutSeed, apply_dropout
from jaxft.layers.heads.backbone import Backbone
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.precision import widen


class TokenClassifier(nnx.Module):
    """A token classifier: a backbone, dropout, and a linear layer `head` that scores the labels of each token.

    Args:
      backbone: called like `Bert`; has its width in `hidden_size`.
      num_labels: C.
      dropout: the dropout rate before the head.
      initializer_range: the standard deviation of the head's new weights.
      head_class: the head's class, constructed like `Linear`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_labels: int,
        dropout: float,
        initializer_range: float,
        rngs: nnx.Rngs,
        head_class: type[Linear] = Linear,
    ):
        self.backbone = backbone
        self.head = head_class(
            backbone.config.hidden_size, num_labels, initializer_range=initializer_range, rngs=rngs
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
        x = apply_dropout(x.reshape(rows * length, size), self.rate, dropout, HEAD_SITE, rows=rows)
        return self.head(widen(x)).reshape(rows, length, -1)
