"""Computes losses of logits as (loss_sum, weight_sum), to be added over microbatches and devices and divided once."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
    focal_gamma: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Computes weighted softmax cross-entropy; sum / weight equals torch's `CrossEntropyLoss(reduction="mean")`.

    Args:
      logits: [..., C] of any float dtype; computed in float32.
      labels: [...] int32 in [0, C), or [..., C] float32, the share of each class.
      weights: [...] float32. A weight of 0 excludes a position from value and gradient, even if its logits are not
        finite.
      label_smoothing: the share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
      class_weights: [C] float32. As in torch, each class's term of a smoothed target is multiplied by that class's
        weight, and the divisor by the gold class's weight.
      focal_gamma: each class's term is multiplied by (1 - its probability) ** focal_gamma (Lin et al. 2017,
        equation 4); the divisor is unchanged.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    logits = jnp.where((weights > 0)[..., None], logits.astype(jnp.float32), 0.0)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    num_classes = logits.shape[-1]
    # A product with one-hot targets instead of a gather: classes are few, and the gradient needs no scatter.
    is_soft = labels.ndim == logits.ndim
    target = labels if is_soft else jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    if class_weights is None:
        class_weights = jnp.ones(num_classes, jnp.float32)
    smoothed = (1 - label_smoothing) * target + label_smoothing / num_classes
    terms = smoothed * class_weights * log_probs
    if focal_gamma:
        terms *= _complement(log_probs) ** focal_gamma
    divisor = jnp.sum(target * class_weights, axis=-1)
    return jnp.sum(-jnp.sum(terms, axis=-1) * weights), jnp.sum(divisor * weights)


def _complement(log_probs: jax.Array) -> jax.Array:
    """Returns 1 - p, but at least 1e-7, because at 0 the gradient of a power below 1 is infinite."""
    return jnp.maximum(-jnp.expm1(log_probs), 1e-7)


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
    focal_gamma: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Computes sigmoid cross-entropy for each of C labels; sum / weight equals torch's `BCEWithLogitsLoss`.

    Args:
      logits: [..., C] of any float dtype; computed in float32.
      targets: [..., C] float32, 1 where a label applies, else 0.
      weights: [...] float32. A weight of 0 excludes a position from value and gradient.
      label_smoothing: targets move towards a half by this share.
      class_weights: [C] float32, the weights of each label's positive cases, like torch's `pos_weight`; the divisor is
        unchanged.
      focal_gamma: as in `cross_entropy`, for the two outcomes of each label.

    Returns:
      loss_sum, weight_sum: float32 scalars; the weight counts each of the C labels.
    """
    logits = jnp.where((weights > 0)[..., None], logits.astype(jnp.float32), 0.0)
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    positive, negative = targets * yes, (1 - targets) * no
    if class_weights is not None:
        positive *= class_weights
    if focal_gamma:
        positive, negative = (
            positive * _complement(yes) ** focal_gamma,
            negative * _complement(no) ** focal_gamma,
        )
    losses = -jnp.sum(positive + negative, axis=-1)
    return jnp.sum(losses * weights), jnp.sum(weights) * logits.shape[-1]


def symmetric_divergence(
    a: jax.Array, b: jax.Array, weights: jax.Array, *, exclusive: bool = True
) -> jax.Array:
    """Returns half the sum of both Kullback-Leibler divergences of two distributions, summed over weighted positions.

    Source: R-Drop (Liang et al. 2021, equation 2), which computes a and b from the same input with two dropout masks.

    Args:
      a, b: logits [..., C] of any float dtype; computed in float32.
      weights: [...] float32. A weight of 0 excludes a position.
      exclusive: True for a softmax over the C classes; False for a sigmoid of each class.

    Returns:
      A float32 scalar.
    """
    # The log-probabilities of a sigmoid's two outcomes differ by its logit.
    log = jax.nn.log_softmax if exclusive else lambda x: x
    share = jax.nn.softmax if exclusive else jax.nn.sigmoid
    a, b = (jnp.where((weights > 0)[..., None], x.astype(jnp.float32), 0.0) for x in (a, b))
    return jnp.sum(0.5 * jnp.sum((share(a) - share(b)) * (log(a) - log(b)), axis=-1) * weights)


def span_cross_entropy(
    logits: jax.Array, segment_ids: jax.Array, spans: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes cross-entropy of the first and the last token of each segment's answer.

    It is the mean of two cross-entropies, each with a softmax over the segment's tokens. sum / weight equals the loss
    of transformers' `BertForQuestionAnswering` for a segment without padding, which transformers' softmax would
    include.

    Args:
      logits: [R, L, 2] of any float dtype, for the first and for the last token; computed in float32.
      segment_ids: [R, L] int32, k + 1 at the tokens of segment k.
      spans: [R, S, 2] int32, the slots of the first and last token of segment k's answer.
      weights: [R, S] float32. A weight of 0 excludes a segment from value and gradient, even if its logits are not
        finite.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    is_weighted = weights > 0  # [R, S]
    segments = jnp.arange(1, weights.shape[1] + 1)
    member = (segment_ids[:, None] == segments[None, :, None]) & is_weighted[..., None]  # [R, S, L]
    logits = jnp.where(member.any(axis=1)[..., None], logits.astype(jnp.float32), 0.0)
    segment_logits = jnp.where(member[..., None], logits[:, None], jnp.finfo(jnp.float32).min)  # [R, S, L, 2]
    total = jax.nn.logsumexp(segment_logits, axis=2)  # [R, S, 2]
    gold = jnp.take_along_axis(logits, spans, axis=1)  # [R, S, 2]
    losses = jnp.where(is_weighted[..., None], total - gold, 0.0)
    return jnp.sum(jnp.mean(losses, axis=-1) * weights), jnp.sum(weights)


def squared_error(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the squared difference; sum / weight equals torch's `MSELoss`.

    Args:
      logits, targets, weights: [...]; computed in float32.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    difference = jnp.where(weights > 0, logits.astype(jnp.float32) - targets, 0.0)
    return jnp.sum(jnp.square(difference) * weights), jnp.sum(weights)


def step_scales(weights: jax.Array) -> jax.Array:
    """Returns the factors that scale a step's losses of T tasks.

    Args:
      weights: float32 [..., T + 1]. For each window of the step: the sum of its labels' weights for each task, and 1.
        A place without a window has zeros.

    Returns:
      float32 [..., T + 1]. Column t is the share of windows that have labels of task t, divided by the sum of their
      weights; 0 for a window that has none. With it the task's summed loss becomes its mean, times that share. The last
      column is 1 / N for N windows. It adds up to 1 over the step, however windows lie in microbatches and on devices.
    """
    axes = tuple(range(weights.ndim - 1))
    counts = jnp.sum(weights > 0, axis=axes)  # windows with labels of each task, and all of them
    totals = jnp.maximum(jnp.sum(weights, axis=axes), 1e-30)
    return (weights > 0) * (counts / (jnp.maximum(counts[-1], 1) * totals))
