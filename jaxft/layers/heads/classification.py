"""Defines the head that scores labels: for a vector of each token, or for one of each text."""

import dataclasses

import jax
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import HEAD_SITE, DropoutSeed, apply_dropout
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.precision import widen


@dataclasses.dataclass(frozen=True)
class HeadForm:
    """The layers of a head: an output layer, and what comes before it. Dropout precedes the output layer.

    Attributes:
      activation: a key of `ACTIVATIONS`, which follows a dense layer before the output layer; None if there is no dense
        layer.
      norm_epsilon: the epsilon of a LayerNorm after the activation; None if there is no norm.
      input_dropout: the rate of dropout before the dense layer; None for that of the output layer.
      has_bias: whether the output layer has a bias.
      has_dense_bias: whether the dense layer has one.
      has_norm_bias: whether the norm has one.
    """

    activation: str | None = None
    norm_epsilon: float | None = None
    input_dropout: float | None = None
    has_bias: bool = True
    has_dense_bias: bool = True
    has_norm_bias: bool = True


PLAIN_FORM = HeadForm()  # an output layer alone


class ClassificationHead(Linear):
    """An output layer, behind a layer `dense` and a norm if the head's form has an activation.

    Args:
      size: D, the width of what it reads.
      num_labels: C.
      form: its layers.
      initializer_range: the standard deviation of new weights.
    """

    def __init__(
        self, size: int, num_labels: int, form: HeadForm, *, initializer_range: float, rngs: nnx.Rngs
    ):
        super().__init__(
            size, num_labels, use_bias=form.has_bias, initializer_range=initializer_range, rngs=rngs
        )
        if form.activation:
            self.dense = Linear(
                size, size, use_bias=form.has_dense_bias, initializer_range=initializer_range, rngs=rngs
            )
            if form.norm_epsilon is not None:
                self.norm = LayerNorm(size, epsilon=form.norm_epsilon, use_bias=form.has_norm_bias)
        self.form = form

    def __call__(  # type: ignore[override]  # a head is called with dropout, its output layer without
        self, x: jax.Array, rate: float, seed: DropoutSeed | None, *, rows: int
    ) -> jax.Array:
        """Returns the scores of each vector, `[N, C]`.

        Args:
          x: `[N, D]`, the vectors of R rows.
          rate: the rate of dropout before the output layer.
          seed: the seed of dropout; None for no dropout.
          rows: R.
        """
        site, form = HEAD_SITE, self.form
        if form.activation:
            input_rate = rate if form.input_dropout is None else form.input_dropout
            x = apply_dropout(x, input_rate, seed, site, rows=rows)
            x = ACTIVATIONS[form.activation](self.dense(widen(x)))
            x = x if form.norm_epsilon is None else self.norm(x)
            site += 1
        return super().__call__(widen(apply_dropout(x, rate, seed, site, rows=rows)))
