"""Linear-chain CRF over words: its head, its likelihood, and its best paths."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.layers.linear import Linear

_STREAMS, _STRETCH = 256, 64  # of best_paths: words side by side, and words of a scan


class Chain(NamedTuple):
    """Scores of neighbouring labels, float32, of jax or numpy; -inf, or far below 0, where none may be."""

    transitions: jax.Array | np.ndarray  # [C, C]: from, to
    start: jax.Array | np.ndarray  # [C]: of a sentence's first label
    end: jax.Array | np.ndarray  # [C]: of its last


class CRFHead(Linear):
    """A linear layer for the emissions, and beside it the scores of a `Chain`, 0 at first.

    With these zeros likelihood and best path are those of a softmax at each word.
    """

    def __init__(self, inputs: int, outputs: int, *, initializer_range: float, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, initializer_range=initializer_range, rngs=rngs)
        self.transitions = nnx.Param(jnp.zeros((outputs, outputs), jnp.float32))
        self.start = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.end = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def chain(self) -> Chain:
        """The scores as arrays."""
        return Chain(self.transitions[...], self.start[...], self.end[...])


def negative_log_likelihood(
    emissions: jax.Array, labels: jax.Array, weights: jax.Array, segment_ids: jax.Array, chain: Chain
) -> tuple[jax.Array, jax.Array]:
    """-log p(labels) summed over chains, and how many words they have; computed in float32.

    The words of a segment, where weights are above 0, are one chain, whatever lies between them. p is the
    exponential of emissions, transitions, start and end scores of a label sequence, over the sum of that for all
    label sequences, which the forward algorithm finds. Source: Lafferty et al. 2001; Sutton & McCallum 2012,
    section 4.1.

    Args:
      emissions: [R, L, C] of any float dtype.
      labels: [R, L] int32 in [0, C).
      weights: [R, L] float32, 1 at words; 0 leaves a position out of value and gradient, even where its
        emissions are not finite.
      segment_ids: [R, L] int32.
      chain: finite scores.

    Returns:
      loss_sum, weight_sum: float32 scalars. With all scores of the chain 0 they are those of
      `losses.cross_entropy`, so that learning rates compare.
    """
    words = weights > 0
    emissions = jnp.where(words[..., None], emissions.astype(jnp.float32), 0.0)
    # What is the same for all labels of a word cancels; without it sums stay small, and so does their rounding.
    emissions = jax.nn.log_softmax(emissions)
    previous, follows, followed = _neighbours(words, segment_ids)
    first, last = words & ~follows, words & ~followed

    num_labels = emissions.shape[-1]
    # Products with one-hot labels instead of gathers: few labels, and their gradients are no scatters.
    gold = jax.nn.one_hot(labels, num_labels, dtype=jnp.float32)
    before = jax.nn.one_hot(jnp.take_along_axis(labels, previous, axis=1), num_labels, dtype=jnp.float32)
    scores = (
        emissions
        + jnp.where(follows[..., None], before @ chain.transitions, 0.0)
        + jnp.where(first[..., None], chain.start, 0.0)
        + jnp.where(last[..., None], chain.end, 0.0)
    )
    path = jnp.sum(jnp.where(words[..., None], scores * gold, 0.0))

    def step(
        alpha, position
    ):  # alpha [R, C]: log of the sum over all label sequences up to here, by last label
        emission, word, begins = position
        through = jax.nn.logsumexp(alpha[:, :, None] + chain.transitions, axis=1)
        # Between words the state is handed on, and where a segment begins it begins anew.
        alpha = jnp.where(word, emission + jnp.where(begins, chain.start, through), alpha)
        return alpha, alpha

    # An associative scan, logarithmic in length but with products of C x C matrices, took ten times as long on CPU.
    by_position = (emissions.swapaxes(0, 1), words.T[..., None], first.T[..., None])
    _, alphas = jax.lax.scan(step, jnp.zeros_like(emissions[:, 0]), by_position)
    totals = jax.nn.logsumexp(alphas + chain.end, axis=-1)  # [L, R]
    return jnp.sum(jnp.where(last.T, totals, 0.0)) - path, jnp.sum(weights)


def _neighbours(words: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of `words`, bool [R, L]: the slot of the word before, int32, and whether a word of the segment is before, after.

    The slot is 0 where there is none.
    """
    length = words.shape[1]
    place = jax.lax.broadcasted_iota(jnp.int32, words.shape, 1)
    until = jax.lax.cummax(jnp.where(words, place, -1), axis=1)
    since = jax.lax.cummin(jnp.where(words, place, length), axis=1, reverse=True)
    previous = jnp.pad(until[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    following = jnp.pad(since[:, 1:], ((0, 0), (0, 1)), constant_values=length)

    def same_segment(other):
        at = jnp.clip(other, 0, length - 1)
        return (at == other) & (jnp.take_along_axis(segment_ids, at, axis=1) == segment_ids)

    return jnp.maximum(previous, 0), words & same_segment(previous), words & same_segment(following)


def find_best_paths(
    emissions: np.ndarray, offsets: np.ndarray, chain: Chain
) -> tuple[np.ndarray, np.ndarray]:
    """The best label sequence of each sentence, and the probability of each of its labels given all emissions.

    By Viterbi's algorithm and by forward and backward sums (Rabiner 1989, section III): scans over words, in float32
    and scaled at each word, so that long sentences lose no precision. All words of a data set come at once, for those
    of a sentence may be from several windows, and so from several batches. Sentences lie behind each other in
    `_STREAMS` streams, which go `_STRETCH` words ahead at a time: one program, `compile_best_paths`, for all lengths.

    Args:
      emissions: float [W, C] of all words, sentence after sentence.
      offsets: int [S + 1], where each sentence begins and the last ends.
      chain: numpy; scores may be -inf where some label sequence of every length remains.

    Returns:
      labels: int32 [W].
      probabilities: float32 [W].
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
    stretches = np.split(
        np.argsort(place // _STRETCH, kind="stable"), np.cumsum(np.bincount(place // _STRETCH))[:-1]
    )

    def laid_out(words: np.ndarray, *columns: np.ndarray) -> list[jax.Array]:
        """[T, B, ...] of some words' values; where there is no word all are 0, and True."""
        out = []
        for values in columns:
            out.append(np.full((_STRETCH, _STREAMS, *values.shape[1:]), values.dtype == bool, values.dtype))
            out[-1][place[words] % _STRETCH, stream[words]] = values[words]
        return jax.device_put(out)

    def taken(words: np.ndarray, arrays) -> list[np.ndarray]:
        return [array[place[words] % _STRETCH, stream[words]] for array in jax.device_get(arrays)]

    emissions = (emissions - emissions.max(axis=1, keepdims=True)).astype(np.float32)
    best, sums = np.zeros((2, count, num_labels), np.float32)
    carry = jax.device_put(_carries(num_labels)[0])
    for words in stretches:
        carry, found = forward(chain, carry, *laid_out(words, emissions, begins))
        best[words], sums[words] = taken(words, found)
    carry = jax.device_put(_carries(num_labels)[1])
    for words in stretches[::-1]:
        carry, found = backward(chain, carry, *laid_out(words, emissions, ends, best, sums))
        labels[words], probabilities[words] = taken(words, found)
    return labels, probabilities


@functools.cache
def compile_best_paths(num_labels: int) -> tuple[Callable, Callable]:
    """The two programs of `best_paths`, for the default device of this process."""

    def scores(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape, num_labels), jnp.float32)

    chain = Chain(scores(num_labels), scores(), scores())
    of_words = scores(_STRETCH, _STREAMS)
    borders = jax.ShapeDtypeStruct((_STRETCH, _STREAMS), bool)
    ahead, back = _carries(num_labels)
    return (
        jax.jit(_forward).lower(chain, ahead, of_words, borders).compile(),
        jax.jit(_backward).lower(chain, back, of_words, borders, of_words, of_words).compile(),
    )


def _carries(num_labels: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """What `_forward` and `_backward` begin with: of no meaning, for sentences begin and end there."""
    scores = np.zeros((_STREAMS, num_labels), np.float32)
    return (scores, scores), (scores, np.zeros(_STREAMS, np.int32))


def _forward(chain: Chain, carry, emissions: jax.Array, begins: jax.Array):
    """One stretch, emissions [T, B, C] and begins [T, B]; carry: what is given of the word before.

    Gives the carry, and of each word by its label, up to a constant, the score of the best label sequence up to it and
    the log of the sum over all, [T, B, C] each.
    """

    def step(carry, word):
        best, sums = carry
        emission, begins = word
        through = (best[:, :, None] + chain.transitions).max(axis=1), _log_product(sums, chain.transitions)
        carry = tuple(_scaled(jnp.where(begins[:, None], chain.start, x) + emission) for x in through)
        return carry, carry

    return jax.lax.scan(step, carry, (emissions, begins))


def _backward(chain: Chain, carry, emissions: jax.Array, ends: jax.Array, best: jax.Array, sums: jax.Array):
    """The same stretch from its end, with what `_forward` gave.

    carry, of the word after: the log of the sum over all label sequences from it on by its label, [B, C], and its label
    on the best path, [B]. Gives the carry, and each word's label and its probability, [T, B].
    """

    def step(carry, word):
        after, label = carry
        emission, ends, best, sums = word
        label = (best + jnp.where(ends[:, None], chain.end, chain.transitions.T[label])).argmax(axis=1)
        follow = jnp.where(ends[:, None], chain.end, _log_product(after, chain.transitions.T))
        chances = jax.nn.softmax(sums + follow, axis=1)
        chance = jnp.take_along_axis(chances, label[:, None], axis=1)[:, 0]
        label = label.astype(jnp.int32)
        return (_scaled(emission + follow), label), (label, chance)

    return jax.lax.scan(step, carry, (emissions, ends, best, sums), reverse=True)


def _scaled(scores: jax.Array) -> jax.Array:
    """[B, C] less a constant for each line, so that the largest is 0."""
    return scores - scores.max(axis=1, keepdims=True)


def _log_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(exp(a) @ exp(b)): [B, C] and [C, C] -> [B, C], up to a constant for each line of `a`."""
    # Scaled so that the largest summand of a line is 1, and no line is lost to underflow.
    scale = b.max(axis=1)
    scale = jnp.where(jnp.isfinite(scale), scale, 0.0)
    return jnp.log(
        jnp.dot(jnp.exp(_scaled(a + scale)), jnp.exp(b - scale[:, None]), precision=jax.lax.Precision.HIGHEST)
    )
