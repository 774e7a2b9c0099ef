"""Losses that return (sum, weight), so that sums over microbatches and devices are divided once."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weighted softmax cross-entropy; sum / weight equals torch's `CrossEntropyLoss(reduction="mean")`.

    Args:
      logits: [..., C] of any float dtype; computed in float32.
      labels: [...] int32 in [0, C).
      weights: [...] float32; 0 leaves a position out of value and gradient, even where its logits are
        not finite.
      label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
      class_weights: [C] float32 by gold class; as in torch, the smoothed part is weighted by each class's
        own weight and the divisor by the gold's.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    logits = jnp.where((weights > 0)[..., None], logits.astype(jnp.float32), 0.0)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    num_classes = logits.shape[-1]
    # A product with one-hot targets instead of a gather: few classes, and its gradient is no scatter.
    target = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    if class_weights is None:
        class_weights = jnp.ones(num_classes, jnp.float32)
    smoothed = (1 - label_smoothing) * target + label_smoothing / num_classes
    losses = -jnp.sum(smoothed * class_weights * log_probs, axis=-1)
    divisor = jnp.sum(target * class_weights, axis=-1)
    return jnp.sum(losses * weights), jnp.sum(divisor * weights)
