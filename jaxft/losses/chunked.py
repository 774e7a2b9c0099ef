"""Cross-entropy over a vocabulary without its logits: in chunks of positions, on each device for its own."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxft.parallel.sharded_matmul import gather_shards, scatter_sum

# Positions whose logits over a vocabulary are held at once. On an H100 GPT-2's step took 27.2 ms with 2,048 and 30.0
# with 512.
CHUNK, CHUNK_ON_CPU = 2048, 512
LANES = 128  # what a GPU's or TPU's products want the number of words to be a multiple of
SPLIT_TABLE = "fsdp"  # the axis of a mesh that a vocabulary's embedding is split over, by columns


def chunked_cross_entropy(
    hidden: jax.Array,
    embedding: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`losses.cross_entropy` of the logits `hidden @ embedding.T`, of which it only ever holds `[chunk, V]`.

    Positions without weight are dropped first; the others go through in chunks, as many as they fill. With a
    chunk's logits at hand its gradients are formed too, so that the backward pass is a product with a scalar and
    no logits are computed twice. The gradient of `embedding` is summed in float32, over devices in its dtype.

    Args:
      hidden: [T, D] of any float dtype, in which the products' operands are; they are summed in float32.
      embedding: [V, D] of any float dtype.
      labels: [T] int32 in [0, V); anything where there is no weight. One outside gives NaN, which stops a run.
      weights: [T] float32; 0 leaves a position out of value and gradient, even where its hidden state is not
        finite. Not differentiated.
      chunk: positions whose logits are held at once; None for `chunk_on`'s number.
      mesh: that positions are split over, all its axes: each device drops and cuts its own, with all of the
        embedding, which is gathered in hidden's dtype.

    Returns:
      loss_sum, weight_sum: float32 scalars.
    """
    return _chunked(hidden, embedding, labels, weights, chunk or choose_chunk_size(mesh), mesh), jnp.sum(
        weights
    )


def chunked_scores(
    hidden: jax.Array,
    embedding: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Each position's loss, float32 [T], and whether its label has the highest logit, bool [T].

    Arguments as in `chunked_cross_entropy`; 0 and False where there is no weight.
    """
    scores = functools.partial(_scores_of_all, chunk=chunk or choose_chunk_size(mesh), words=len(embedding))
    return _on_each_device(scores, mesh, hidden.shape, "pp")(
        hidden, _table(embedding, hidden.dtype), labels, weights
    )


def choose_chunk_size(mesh: Mesh | None) -> int:
    """How many positions' logits are held at once on the devices of `mesh`, or on this process's."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return CHUNK_ON_CPU if platform == "cpu" else CHUNK


def _table(embedding: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The embedding in `dtype`, [V, D], filled up to a multiple of `LANES` words where it isn't float32, as on CPU.

    On an H100 the products with GPT-2's 50,257 words took GPT-2's step from 23.6 to 27.2 ms: unaligned, and filled up
    for each chunk.
    """
    if dtype == jnp.float32:
        return embedding.astype(dtype)
    return jnp.pad(embedding.astype(dtype), ((0, -len(embedding) % LANES), (0, 0)))


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
            parts = gather_shards(table[None], columns, mesh)
            table = parts.swapaxes(0, 1).reshape(len(table), -1)
        return tuple(map(together, function(hidden, table, labels, weights), results))

    def together(result, kind):
        if kind == "t" and columns:
            # With the devices' parts as the first axis: TPU's compiler scattered columns by summing all on each device.
            parts = result.reshape(len(result), mesh.shape[columns], -1).swapaxes(0, 1)
            result = scatter_sum(parts, columns, mesh)[0]
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


def _softmax_of_chunk(hidden, table, words, labels, weights, picked) -> _Chunk:
    """The softmax at positions `picked` [C]; an index past the end stands for a position without weight.

    words: how many of the table's rows are words; the others fill it up.
    """
    take = functools.partial(jnp.take, indices=picked, axis=0, mode="fill", fill_value=0)
    weights = take(weights)
    weighted = weights > 0
    hidden = jnp.where(weighted[:, None], take(hidden), 0)
    labels = jnp.where(weighted, take(labels), 0)
    known = (labels >= 0) & (labels < words)
    label_rows = table[jnp.where(known, labels, 0)].astype(jnp.float32)
    label_logits = jnp.sum(hidden.astype(jnp.float32) * label_rows, axis=-1)
    label_logits = jnp.where(known, label_logits, jnp.nan)
    logits = _product(hidden, table, 1, 1)
    word = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    if len(table) > words:
        logits = jnp.where(word < words, logits, -jnp.inf)
    top = jnp.max(logits, axis=-1)
    is_label = word == labels[:, None]
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


def _scores_of_all(hidden, table, labels, weights, *, chunk, words):
    """As `chunked_scores`, on one device."""
    order, used = _weighted_first(weights, chunk)

    def body(index, carry):
        losses, correct = carry
        one = _softmax_of_chunk(hidden, table, words, labels, weights, order[index])
        weighted = one.weights > 0
        return (
            losses.at[order[index]].set(jnp.where(weighted, one.losses, 0.0), mode="drop"),
            correct.at[order[index]].set(weighted & (one.best == one.labels), mode="drop"),
        )

    start = (jnp.zeros(len(labels), jnp.float32), jnp.zeros(len(labels), bool))
    return jax.lax.fori_loop(0, used, body, start)


def _loss_of_all(hidden, table, labels, weights, *, chunk, words):
    """The loss summed, on one device, as a tuple of one."""
    order, used = _weighted_first(weights, chunk)

    def body(index, loss):
        one = _softmax_of_chunk(hidden, table, words, labels, weights, order[index])
        return loss + jnp.sum(one.losses * one.weights)

    return (jax.lax.fori_loop(0, used, body, jnp.float32(0)),)


def _gradients_of_all(hidden, table, labels, weights, *, chunk, words, dtype):
    """The loss summed and its gradients by hidden (in its dtype) and table (in `dtype`), on one device."""
    order, used = _weighted_first(weights, chunk)

    def body(index, carry):
        loss, d_hidden, d_table = carry
        one = _softmax_of_chunk(hidden, table, words, labels, weights, order[index])
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
    loss = functools.partial(_loss_of_all, chunk=chunk, words=len(embedding))
    arrays = hidden, _table(embedding, hidden.dtype), labels, weights
    return _on_each_device(loss, mesh, hidden.shape, "s")(*arrays)[0]


def _chunked_forward(hidden, embedding, labels, weights, chunk, mesh):
    both = functools.partial(_gradients_of_all, chunk=chunk, words=len(embedding), dtype=embedding.dtype)
    arrays = hidden, _table(embedding, hidden.dtype), labels, weights
    loss, d_hidden, d_table = _on_each_device(both, mesh, hidden.shape, "spt")(*arrays)
    return loss, (d_hidden, d_table[: len(embedding)])


def _chunked_backward(chunk, mesh, residuals, gradient):
    d_hidden, d_embedding = residuals
    d_hidden, d_embedding = ((x * gradient).astype(x.dtype) for x in (d_hidden, d_embedding))
    return d_hidden, d_embedding, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
