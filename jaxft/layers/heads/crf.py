"""Defines a linear-chain CRF over words: its head, its likelihood and its best paths."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.layers.heads.classification import ClassificationHead, HeadForm
from jaxft.layers.parameters import Kind, Role, make_parameter

# `find_best_paths` scans this many streams of words at once, and this many words of each stream in one scan.
_STREAMS, _STRETCH = 256, 64


class Chain(NamedTuple):
    """Scores of neighbouring labels, float32 arrays of jax or numpy.

    A score of -inf, or far below 0, forbids the label or the transition.

    Attributes:
      transitions: `[C, C]`, the scores from label to label.
      start: `[C]`, the scores of a sentence's first label.
      end: `[C]`, the scores of its last label.
    """

    transitions: jax.Array | np.ndarray
    start: jax.Array | np.ndarray
    end: jax.Array | np.ndarray


class CRFHead(ClassificationHead):
    """A head for the emissions, and the scores of a `Chain`.

    New scores are 0. With scores of 0, likelihood and best path are the same as with a softmax at each word.
    """

    def __init__(
        self, size: int, num_labels: int, form: HeadForm, *, initializer_range: float, rngs: nnx.Rngs
    ):
        super().__init__(size, num_labels, form, initializer_range=initializer_range, rngs=rngs)
        scores = jnp.zeros((num_labels,), jnp.float32)
        self.transitions = make_parameter(jnp.zeros((num_labels, num_labels), jnp.float32), Role(Kind.BIAS))
        self.start = make_parameter(scores, Role(Kind.BIAS))
        self.end = make_parameter(scores, Role(Kind.BIAS))

    def chain(self) -> Chain:
        """Returns the scores as arrays."""
        return Chain(self.transitions[...], self.start[...], self.end[...])


def negative_log_likelihood(
    emissions: jax.Array, labels: jax.Array, weights: jax.Array, segment_ids: jax.Array, chain: Chain
) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(labels) summed over chains, and the number of their words; computed in float32.

    The words of a segment are its positions with a weight above 0. They are one chain, whatever lies between them. The
    score of a label sequence is the sum of its emissions, transitions, start and end scores. p is the exponential of
    this score, divided by the sum of the exponentials for all label sequences, which the forward algorithm computes.
    Source: Lafferty et al. 2001; Sutton & McCallum 2012, section 4.1.

    Args:
      emissions: [R, L, C] of any float dtype.
      labels: [R, L] int32 in [0, C).
      weights: [R, L] float32, 1 at words. A weight of 0 excludes a position from value and gradient, even if its
        emissions are not finite.
      segment_ids: [R, L] int32.
      chain: finite scores.

    Returns:
      loss_sum, weight_sum: float32 scalars. If all scores of the chain are 0, they equal `cross_entropy`'s, so the
      same learning rates suit both losses.
    """
    words = weights > 0
    emissions = jnp.where(words[..., None], emissions.astype(jnp.float32), 0.0)
    # A constant for all labels of a word cancels out. Without it, sums and their rounding errors stay small.
    emissions = jax.nn.log_softmax(emissions)
    previous, follows, followed = _find_neighbours(words, segment_ids)
    first, last = words & ~follows, words & ~followed

    num_labels = emissions.shape[-1]
    # Products with one-hot labels instead of gathers: labels are few, and the gradients need no scatter.
    gold = jax.nn.one_hot(labels, num_labels, dtype=jnp.float32)
    before = jax.nn.one_hot(jnp.take_along_axis(labels, previous, axis=1), num_labels, dtype=jnp.float32)
    scores = (
        emissions
        + jnp.where(follows[..., None], before @ chain.transitions, 0.0)
        + jnp.where(first[..., None], chain.start, 0.0)
        + jnp.where(last[..., None], chain.end, 0.0)
    )
    path = jnp.sum(jnp.where(words[..., None], scores * gold, 0.0))

    def step(alpha, position):
        # alpha [R, C]: for each last label, the log of the sum over all label sequences up to this position.
        emission, is_word, begins = position
        through = jax.nn.logsumexp(alpha[:, :, None] + chain.transitions, axis=1)
        # A position without a word keeps the state. The first word of a segment starts from the start scores.
        alpha = jnp.where(is_word, emission + jnp.where(begins, chain.start, through), alpha)
        return alpha, alpha

    # An associative scan, logarithmic in length but with products of C x C matrices, took ten times as long on CPU.
    by_position = (emissions.swapaxes(0, 1), words.T[..., None], first.T[..., None])
    _, alphas = jax.lax.scan(step, jnp.zeros_like(emissions[:, 0]), by_position)
    totals = jax.nn.logsumexp(alphas + chain.end, axis=-1)  # [L, R]
    return jnp.sum(jnp.where(last.T, totals, 0.0)) - path, jnp.sum(weights)


def _find_neighbours(words: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the neighbours of each word in its segment.

    Args:
      words: bool [R, L], True at words.
      segment_ids: int32 [R, L].

    Returns:
      Three arrays [R, L]: the slot of the previous word, int32 (0 if there is none); whether the segment has a previous
      word; and whether it has a next word.
    """
    length = words.shape[1]
    slot = jax.lax.broadcasted_iota(jnp.int32, words.shape, 1)
    last_word = jax.lax.cummax(jnp.where(words, slot, -1), axis=1)
    next_word = jax.lax.cummin(jnp.where(words, slot, length), axis=1, reverse=True)
    previous = jnp.pad(last_word[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    following = jnp.pad(next_word[:, 1:], ((0, 0), (0, 1)), constant_values=length)

    def is_in_segment(neighbour):
        inside = jnp.clip(neighbour, 0, length - 1)
        return (inside == neighbour) & (jnp.take_along_axis(segment_ids, inside, axis=1) == segment_ids)

    return jnp.maximum(previous, 0), words & is_in_segment(previous), words & is_in_segment(following)


def find_best_paths(
    emissions: np.ndarray, offsets: np.ndarray, chain: Chain
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the best label sequence of each sentence, and the probability of each of its labels.

    The algorithms are Viterbi's and the forward-backward algorithm (Rabiner 1989, section III). They scan over words in
    float32 and rescale at each word, so long sentences lose no precision. The function takes all words of a data set at
    once, because the words of a sentence may come from several windows, and so from several batches. Sentences follow
    each other in `_STREAMS` streams, and each scan takes `_STRETCH` words of every stream. So the two programs of
    `compile_best_paths` serve all lengths.

    Args:
      emissions: float [W, C] of all words, sentence after sentence.
      offsets: int [S + 1], the begin of each sentence, and the end of the last.
      chain: numpy arrays. Scores may be -inf if every length keeps some label sequence.

    Returns:
      labels: int32 [W].
      probabilities: float32 [W], the probability of each label under all emissions of its sentence.
    """
    count, num_labels = emissions.shape
    labels, probabilities = np.zeros(count, np.int32), np.zeros(count, np.float32)
    if not count:
        return labels, probabilities
    forward, backward = compile_best_paths(num_labels)
    chain = jax.device_put(Chain(*(np.asarray(scores, np.float32) for scores in chain)))
    starts = offsets[:-1][np.diff(offsets) > 0]
    begins, ends = np.zeros(count, bool), np.zeros(count, bool)
    begins[starts], ends[np.append(starts[1:], count) - 1] = True, True
    # A stream takes the sentences that begin in its share of the words.
    stream = (starts * _STREAMS // count)[np.cumsum(begins) - 1]
    place = np.arange(count) - np.searchsorted(stream, stream)
    # The words of each stretch of the streams.
    stretches = np.split(
        np.argsort(place // _STRETCH, kind="stable"), np.cumsum(np.bincount(place // _STRETCH))[:-1]
    )

    def to_streams(words: np.ndarray, *columns: np.ndarray) -> list[jax.Array]:
        """Arranges the values of words as [T, B, ...]; a slot without a word gets 0, or True in boolean columns."""
        arrays = []
        for values in columns:
            array = np.full((_STRETCH, _STREAMS, *values.shape[1:]), values.dtype == bool, values.dtype)
            array[place[words] % _STRETCH, stream[words]] = values[words]
            arrays.append(array)
        return jax.device_put(arrays)

    def from_streams(words: np.ndarray, arrays) -> list[np.ndarray]:
        """Undoes `to_streams`."""
        return [array[place[words] % _STRETCH, stream[words]] for array in jax.device_get(arrays)]

    emissions = (emissions - emissions.max(axis=1, keepdims=True)).astype(np.float32)
    best, sums = np.zeros((2, count, num_labels), np.float32)
    forward_carry, backward_carry = _first_carries(num_labels)
    carry = jax.device_put(forward_carry)
    for words in stretches:
        carry, outputs = forward(chain, carry, *to_streams(words, emissions, begins))
        best[words], sums[words] = from_streams(words, outputs)
    carry = jax.device_put(backward_carry)
    for words in stretches[::-1]:
        carry, outputs = backward(chain, carry, *to_streams(words, emissions, ends, best, sums))
        labels[words], probabilities[words] = from_streams(words, outputs)
    return labels, probabilities


@functools.cache
def compile_best_paths(num_labels: int) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """Compiles the two programs of `find_best_paths`, forward and backward, for this process's default device."""

    def scores(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape, num_labels), jnp.float32)

    # Shapes are lowered in the place of arrays.
    chain = Chain(*cast(tuple[Any, Any, Any], (scores(num_labels), scores(), scores())))
    words = scores(_STRETCH, _STREAMS)
    borders = jax.ShapeDtypeStruct((_STRETCH, _STREAMS), bool)
    forward_carry, backward_carry = _first_carries(num_labels)
    return (
        jax.jit(_forward).lower(chain, forward_carry, words, borders).compile(),
        jax.jit(_backward).lower(chain, backward_carry, words, borders, words, words).compile(),
    )


def _first_carries(num_labels: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Returns the first carries of `_forward` and `_backward`. No sentence reads their values."""
    scores = np.zeros((_STREAMS, num_labels), np.float32)
    return (scores, scores), (scores, np.zeros(_STREAMS, np.int32))


def _forward(chain: Chain, carry, emissions: jax.Array, begins: jax.Array):
    """Scans a stretch forward.

    Args:
      chain: the scores.
      carry: the outputs for the previous word, [B, C] each.
      emissions: [T, B, C].
      begins: bool [T, B], True at the first words of sentences.

    Returns:
      The carry, and two arrays [T, B, C]. For each word and label they hold, up to a constant, the score of the best
      label sequence that ends there, and the log of the sum over all such sequences.
    """

    def step(carry, word):
        best, sums = carry
        emission, begins = word
        through = (best[:, :, None] + chain.transitions).max(axis=1), _log_product(sums, chain.transitions)
        carry = tuple(_rescale(jnp.where(begins[:, None], chain.start, x) + emission) for x in through)
        return carry, carry

    return jax.lax.scan(step, carry, (emissions, begins))


def _backward(chain: Chain, carry, emissions: jax.Array, ends: jax.Array, best: jax.Array, sums: jax.Array):
    """Scans a stretch backward, with the outputs of `_forward`.

    Args:
      chain: the scores.
      carry: for the next word: for each of its labels, the log of the sum over all label sequences from there on,
        [B, C]; and its label on the best path, [B].
      emissions: [T, B, C].
      ends: bool [T, B], True at the last words of sentences.
      best, sums: [T, B, C], from `_forward`.

    Returns:
      The carry, each word's label on the best path, int32 [T, B], and this label's probability, float32 [T, B].
    """

    def step(carry, word):
        after, label = carry
        emission, ends, best, sums = word
        label = (best + jnp.where(ends[:, None], chain.end, chain.transitions.T[label])).argmax(axis=1)
        follow = jnp.where(ends[:, None], chain.end, _log_product(after, chain.transitions.T))
        probabilities = jax.nn.softmax(sums + follow, axis=1)
        probability = jnp.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
        label = label.astype(jnp.int32)
        return (_rescale(emission + follow), label), (label, probability)

    return jax.lax.scan(step, carry, (emissions, ends, best, sums), reverse=True)


def _rescale(scores: jax.Array) -> jax.Array:
    """Subtracts from each row of [B, C] its largest score."""
    return scores - scores.max(axis=1, keepdims=True)


def _log_product(a: jax.Array, b: jax.Array | np.ndarray) -> jax.Array:
    """Computes log(exp(a) @ exp(b)) for [B, C] and [C, C], up to a constant for each row of `a`."""
    # The largest summand of each row is scaled to 1, so no row is lost to underflow.
    scale = b.max(axis=1)
    scale = jnp.where(jnp.isfinite(scale), scale, 0.0)
    return jnp.log(
        jnp.dot(
            jnp.exp(_rescale(a + scale)), jnp.exp(b - scale[:, None]), precision=jax.lax.Precision.HIGHEST
        )
    )
