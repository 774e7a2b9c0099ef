"""Makes what the losses of labels share: R-Drop, and the weights of classes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.tasks.settings import LabelLoss

SECOND_PASS = np.uint32(0x5BD1E995)  # XORed with a step's dropout seed for R-Drop's second pass


def loss_with_r_drop(
    logits: Callable[[DropoutSeed | None], jax.Array],
    loss: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    divergence: Callable[[jax.Array, jax.Array], jax.Array],
    r_drop: float,
    dropout: DropoutSeed | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (loss_sum, weight_sum) of `loss` on `logits`, with R-Drop (Liang et al. 2021) if `r_drop` is not 0.

    R-Drop computes the logits twice, with two dropout masks. The loss is the mean of both losses plus `r_drop` times
    the `divergence` of the logits. If several tasks share a backbone, each task makes its own second pass.
    """
    first = logits(dropout)
    total, weight = loss(first)
    if not r_drop or dropout is None:
        return total, weight
    second = logits(dropout._replace(seed=dropout.seed ^ SECOND_PASS))
    return (total + loss(second)[0]) / 2 + r_drop * divergence(first, second), weight


def read_class_weights(loss: LabelLoss, labels: Sequence[str]) -> np.ndarray | None:
    """Returns `config.loss.class_weights` as float32 [C], or None if there are none.

    Raises:
      UserError: a weight names an unknown label.
    """
    if not loss.class_weights:
        return None
    weights = np.ones(len(labels), np.float32)
    for label, weight in loss.class_weights:
        if label not in labels:
            raise UserError(
                f"config.loss.class_weights names {label!r}, which is no label of the training data; "
                f"labels: {', '.join(labels)}"
            )
        weights[labels.index(label)] = weight
    return weights
