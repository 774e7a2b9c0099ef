"""Losses that return (sum, weight), so that sums over microbatches and devices are divided once."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

CHUNK = 512  # positions whose logits over a vocabulary are held at once
SPLIT_TABLE = "fsdp"  # the axis of a mesh that a vocabulary's embedding is split over, by columns


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
    focal_gamma: float = 0.0,
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
      focal_gamma: each class's term is multiplied by (1 - its probability) ** focal_gamma (Lin et al. 2017,
        equation 4); the divisor stays.

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
    terms = smoothed * class_weights * log_probs
    if focal_gamma:
        terms *= _missing(log_probs) ** focal_gamma
    divisor = jnp.sum(target * class_weights, axis=-1)
    return jnp.sum(-jnp.sum(terms, axis=-1) * weights), jnp.sum(divisor * weights)


def _missing(log_probs: jax.Array) -> jax.Array:
    """1 - p, away from 0, where the gradient of a power below 1 is infinite."""
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
    """Sigmoid cross-entropy of each of C labels; sum / weight equals the mean of torch's `BCEWithLogitsLoss`.

    Args:
      logits: [..., C] of any float dtype; computed in float32.
      targets: [..., C] float32, 1 where a label applies, else 0.
      weights: [...] float32; 0 leaves a position out of value and gradient.
      label_smoothing: targets move towards a half by this share.
      class_weights: [C] float32, of a label's positive cases, as torch's `pos_weight`; the divisor stays.
      focal_gamma: as in `cross_entropy`, over the two outcomes of each label.

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
        positive, negative = positive * _missing(yes) ** focal_gamma, negative * _missing(no) ** focal_gamma
    losses = -jnp.sum(positive + negative, axis=-1)
    return jnp.sum(losses * weights), jnp.sum(weights) * logits.shape[-1]


def divergence(a: jax.Array, b: jax.Array, weights: jax.Array, *, exclusive: bool = True) -> jax.Array:
    """Half the sum of both Kullback-Leibler divergences of two distributions, summed over positions by weight.

    Source: R-Drop (Liang et al. 2021, equation 2), where a and b come from one input under two dropout masks.

    Args:
      a, b: logits [..., C] of any float dtype; computed in float32.
      weights: [...] float32; 0 leaves a position out.
      exclusive: whether the C classes are one softmax; if not each is a sigmoid of its own.
    """
    log = jax.nn.log_softmax if exclusive else lambda x: x  # a sigmoid's two log-odds differ by its logit
    share = jax.nn.softmax if exclusive else jax.nn.sigmoid
    a, b = (jnp.where((weights > 0)[..., None], x.astype(jnp.float32), 0.0) for x in (a, b))
    return jnp.sum(0.5 * jnp.sum((share(a) - share(b)) * (log(a) - log(b)), axis=-1) * weights)


def span_cross_entropy(
    logits: jax.Array, segment_ids: jax.Array, spans: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each segment's first and last token of an answer; sum / weight equals torch's loss of
    `BertForQuestionAnswering` on a segment without padding (which torch's softmax would be over too): the mean of both
    softmaxes over the segment's own tokens.

    Args:
      logits: [R, L, 2] of any float dtype, of being first and of being last; computed in float32.
      segment_ids: [R, L] int32, k + 1 at the tokens of segment k.
      spans: [R, S, 2] int32, the slots in the row of segment k's first and last token of its answer.
      weights: [R, S] float32; 0 leaves a segment out of value and gradient, even where its logits are not finite.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    used = weights > 0  # [R, S]
    segments = jnp.arange(1, weights.shape[1] + 1)
    member = (segment_ids[:, None] == segments[None, :, None]) & used[..., None]  # [R, S, L]
    logits = jnp.where(member.any(axis=1)[..., None], logits.astype(jnp.float32), 0.0)
    own = jnp.where(member[..., None], logits[:, None], jnp.finfo(jnp.float32).min)  # [R, S, L, 2]
    total = jax.nn.logsumexp(own, axis=2)  # [R, S, 2]
    chosen = jnp.take_along_axis(logits, spans, axis=1)  # [R, S, 2]
    losses = jnp.where(used[..., None], total - chosen, 0.0)
    return jnp.sum(jnp.mean(losses, axis=-1) * weights), jnp.sum(weights)


def squared_error(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared difference; sum / weight equals torch's `MSELoss`. All [...], computed in float32.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    difference = jnp.where(weights > 0, logits.astype(jnp.float32) - targets, 0.0)
    return jnp.sum(jnp.square(difference) * weights), jnp.sum(weights)


def chunked_cross_entropy(
    hidden: jax.Array,
    embedding: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    chunk: int = CHUNK,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of the logits `hidden @ embedding.T`, of which it only ever holds `[chunk, V]`.

    Positions without weight are dropped first; the others go through in chunks, as many as they fill. With a
    chunk's logits at hand its gradients are formed too, so that the backward pass is a product with a scalar and
    no logits are computed twice. The gradient of `embedding` is summed in float32, over devices in its dtype.

    Args:
      hidden: [T, D] of any float dtype, in which the products' operands are; they are summed in float32.
      embedding: [V, D] of any float dtype.
      labels: [T] int32 in [0, V); anything where there is no weight. One outside gives NaN, which stops a run.
      weights: [T] float32; 0 leaves a position out of value and gradient, even where its hidden state is not
        finite. Not differentiated.
      mesh: that positions are split over, all its axes: each device drops and cuts its own, with all of the
        embedding, which is gathered in hidden's dtype.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    return _chunked(hidden, embedding, labels, weights, chunk, mesh), jnp.sum(weights)


def chunked_scores(
    hidden: jax.Array,
    embedding: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    chunk: int = CHUNK,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Each position's loss, float32 [T], and whether its label has the highest logit, bool [T].

    Arguments as in `chunked_cross_entropy`; 0 and False where there is no weight.
    """
    scores = functools.partial(_scores_of_all, chunk=chunk)
    return _on_each_device(scores, mesh, hidden.shape, "pp")(
        hidden, embedding.astype(hidden.dtype), labels, weights
    )


def _on_each_device(function: Callable, mesh: Mesh | None, shape: tuple[int, int], results: str):
    """`function` (hidden, table, labels, weights) of each device's own positions, its results put together.

    shape: hidden's. results: a letter for each, "p" of a value a position, "s" of a sum over positions, "t" of a
    table's gradient.
    """
    axes = () if mesh is None else mesh.axis_names
    while shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    if not axes:
        return function
    columns = SPLIT_TABLE if SPLIT_TABLE in axes and shape[1] % mesh.shape[SPLIT_TABLE] == 0 else None

    def own(hidden, table, labels, weights):
        if columns:
            table = jax.lax.all_gather(table, columns, axis=1, tiled=True)
        return tuple(map(together, function(hidden, table, labels, weights), results))

    def together(result, kind):
        if kind == "t" and columns:
            result = jax.lax.psum_scatter(result, columns, scatter_dimension=1, tiled=True)
            return jax.lax.psum(result, [axis for axis in axes if axis != columns])
        return result if kind == "p" else jax.lax.psum(result, axes)

    specs = {"p": PartitionSpec(axes), "s": PartitionSpec(), "t": PartitionSpec(None, columns)}
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(specs["p"], specs["t"], specs["p"], specs["p"]),
        out_specs=tuple(map(specs.get, results)),
        check_vma=False,  # a device's loop has as many trips as its labels take, which the check doesn't allow
    )


class _Chunk(NamedTuple):
    """The softmax over `[C, V]` logits, in parts: p[c, v] = others[c, v] / total[c], but for the label's."""

    hidden: jax.Array  # [C, D], 0 where there is no weight
    labels: jax.Array  # [C]
    weights: jax.Array  # [C]
    label_rows: jax.Array  # [C, D] float32: the labels' rows of the embedding
    losses: jax.Array  # [C]
    others: jax.Array  # [C, V] float32: exp(logit - max), 0 at the label
    others_sum: jax.Array  # [C]
    total: jax.Array  # [C]: others_sum and the label's share
    best: jax.Array  # [C] int32: where the logit is highest


def _softmax_of_chunk(hidden, table, labels, weights, picked) -> _Chunk:
    """The softmax at positions `picked` [C]; an index past the end stands for a position without weight."""
    take = functools.partial(jnp.take, indices=picked, axis=0, mode="fill", fill_value=0)
    weights = take(weights)
    weighted = weights > 0
    hidden = jnp.where(weighted[:, None], take(hidden), 0)
    labels = jnp.where(weighted, take(labels), 0)
    known = (labels >= 0) & (labels < len(table))
    label_rows = table[jnp.where(known, labels, 0)].astype(jnp.float32)
    label_logits = jnp.sum(hidden.astype(jnp.float32) * label_rows, axis=-1)
    label_logits = jnp.where(known, label_logits, jnp.nan)
    logits = _product(hidden, table, 1, 1)
    top = jnp.max(logits, axis=-1)
    is_label = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == labels[:, None]
    others = jnp.where(is_label, 0.0, jnp.exp(logits - top[:, None]))
    others_sum = jnp.sum(others, axis=-1)
    total = others_sum + jnp.exp(label_logits - top)
    losses = jnp.log(total) + top - label_logits
    best = jnp.argmax(logits, axis=-1)
    return _Chunk(hidden, labels, weights, label_rows, losses, others, others_sum, total, best)


def _weighted_first(weights: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Positions in chunks [T / chunk rounded up, chunk], those with weight first; and how many chunks hold any.

    Filled up with T, an index past the end.
    """
    count = len(weights)
    chunk = min(chunk, count)
    order = jnp.argsort(weights <= 0, stable=True)
    order = jnp.pad(order, (0, -count % chunk), constant_values=count).reshape(-1, chunk)
    return order, (jnp.sum(weights > 0) + chunk - 1) // chunk


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Matrix product over the given axes, summed in float32."""
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)


def _scores_of_all(hidden, table, labels, weights, *, chunk):
    """As `chunked_scores`, on one device."""
    order, used = _weighted_first(weights, chunk)

    def body(index, carry):
        losses, correct = carry
        one = _softmax_of_chunk(hidden, table, labels, weights, order[index])
        weighted = one.weights > 0
        return (
            losses.at[order[index]].set(jnp.where(weighted, one.losses, 0.0), mode="drop"),
            correct.at[order[index]].set(weighted & (one.best == one.labels), mode="drop"),
        )

    start = (jnp.zeros(len(labels), jnp.float32), jnp.zeros(len(labels), bool))
    return jax.lax.fori_loop(0, used, body, start)


def _loss_of_all(hidden, table, labels, weights, *, chunk):
    """The loss summed, on one device, as a tuple of one."""
    order, used = _weighted_first(weights, chunk)

    def body(index, loss):
        one = _softmax_of_chunk(hidden, table, labels, weights, order[index])
        return loss + jnp.sum(one.losses * one.weights)

    return (jax.lax.fori_loop(0, used, body, jnp.float32(0)),)


def _gradients_of_all(hidden, table, labels, weights, *, chunk, dtype):
    """The loss summed and its gradients by hidden (in its dtype) and table (in `dtype`), on one device."""
    order, used = _weighted_first(weights, chunk)

    def body(index, carry):
        loss, d_hidden, d_table = carry
        one = _softmax_of_chunk(hidden, table, labels, weights, order[index])
        # d(loss) / d(logits) is weight / total * others, and -weight / total * others_sum at the label: two terms
        # that are summed apart, so that no [C, V] is written for the second and nothing cancels.
        scale = (one.weights / one.total)[:, None]
        sums, others = one.others_sum[:, None], one.others.astype(hidden.dtype)
        gradient = (_product(others, table, 1, 0) - sums * one.label_rows) * scale
        d_hidden = d_hidden.at[order[index]].set(gradient.astype(d_hidden.dtype), mode="drop")
        scaled = one.hidden * scale
        d_table += _product(others, scaled.astype(others.dtype), 0, 0)
        d_table = d_table.at[one.labels].add(-sums * scaled)
        loss += jnp.sum(one.losses * one.weights)
        return loss, d_hidden, d_table

    start = (jnp.float32(0), jnp.zeros_like(hidden), jnp.zeros(table.shape, jnp.float32))
    loss, d_hidden, d_table = jax.lax.fori_loop(0, used, body, start)
    return loss, d_hidden, d_table.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(hidden, embedding, labels, weights, chunk, mesh):
    loss = functools.partial(_loss_of_all, chunk=chunk)
    arrays = hidden, embedding.astype(hidden.dtype), labels, weights
    return _on_each_device(loss, mesh, hidden.shape, "s")(*arrays)[0]


def _chunked_forward(hidden, embedding, labels, weights, chunk, mesh):
    both = functools.partial(_gradients_of_all, chunk=chunk, dtype=embedding.dtype)
    arrays = hidden, embedding.astype(hidden.dtype), labels, weights
    loss, *gradients = _on_each_device(both, mesh, hidden.shape, "spt")(*arrays)
    return loss, tuple(gradients)


def _chunked_backward(chunk, mesh, residuals, gradient):
    d_hidden, d_embedding = residuals
    return (
        (d_hidden * gradient).astype(d_hidden.dtype),
        (d_embedding * gradient).astype(d_embedding.dtype),
        None,
        None,
    )


_chunked.defvjp(_chunked_forward, _chunked_backward)
