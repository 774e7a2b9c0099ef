"""Linear-chain CRF over words: its head, its likelihood on the device, its best paths on the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.models.layers import Linear

_BLOCK = 256  # sentences decoded at a time: bounds memory at _BLOCK x C x C


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


def best_paths(emissions: np.ndarray, offsets: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """The best label sequence of each sentence, and the probability of each of its labels given all emissions.

    By Viterbi's algorithm and by forward and backward sums, in float64. It runs on the host, for a sentence's words
    may come from several windows, and so from several batches, and a scan would be compiled for each number of them;
    all sentences of a block go one word ahead at a time.

    Args:
      emissions: float [W, C] of all words, sentence after sentence.
      offsets: int [S + 1], where each sentence begins and the last ends.
      chain: numpy; scores may be -inf where some label sequence of every length remains.

    Returns:
      labels: int32 [W].
      probabilities: float32 [W].
    """
    labels = np.zeros(len(emissions), np.int32)
    probabilities = np.zeros(len(emissions), np.float32)
    chain = Chain(*(np.asarray(scores, np.float64) for scores in chain))
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]  # those without words come last
    for first in range(0, len(order), _BLOCK):
        chosen = order[first : first + _BLOCK]
        starts, ends = offsets[chosen], offsets[chosen + 1]
        # By word of the sentence: where the words of all sentences that are as long lie, the longest sentence's first.
        words = [starts[: np.count_nonzero(ends - starts > at)] + at for at in range(ends[0] - starts[0])]
        steps = [emissions[where].astype(np.float64) for where in words]
        found = _viterbi(steps, chain)
        chances = _marginals(steps, chain)
        for where, best, chance in zip(words, found, chances, strict=True):
            labels[where] = best
            probabilities[where] = chance[np.arange(len(best)), best]
    return labels, probabilities


def _viterbi(steps: list[np.ndarray], chain: Chain) -> list[np.ndarray]:
    """Labels [n] at each word of emissions [n, C]; n falls, for the longest sentence is the first."""
    score = chain.start + steps[0]
    backward = np.ascontiguousarray(
        chain.transitions.T
    )  # [to, from]: a search along the last axis is the quickest
    pointers = []
    for emission in steps[1:]:
        through = score[: len(emission), None] + backward
        pointers.append(through.argmax(axis=2))
        score[: len(emission)] = through.max(axis=2) + emission
    best = (score + chain.end).argmax(axis=1)  # of each sentence's last word, and then of those before it
    found = []
    for at in range(len(steps) - 1, -1, -1):
        found.append(best[: len(steps[at])].copy())
        if at:
            best[: len(found[-1])] = pointers[at - 1][np.arange(len(found[-1])), found[-1]]
    return found[::-1]


def _marginals(steps: list[np.ndarray], chain: Chain) -> list[np.ndarray]:
    """Probabilities [n, C] of the labels at each word of emissions [n, C], as in `_viterbi`."""
    forward = [chain.start + steps[0]]
    for emission in steps[1:]:
        forward.append(_log_product(forward[-1][: len(emission)], chain.transitions) + emission)
    backward = np.tile(chain.end, (len(steps[0]), 1))
    found = []
    for at in range(len(steps) - 1, -1, -1):
        count = len(steps[at])
        joint = forward[at] + backward[:count]
        joint = np.exp(joint - joint.max(axis=1, keepdims=True))
        found.append(joint / joint.sum(axis=1, keepdims=True))
        backward[:count] = _log_product(backward[:count] + steps[at], chain.transitions.T)
    return found[::-1]


def _log_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(exp(a) @ exp(b)): [n, C] and [C, C] -> [n, C]."""
    top = a.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):  # log 0 where nothing may be
        return top + np.log(np.exp(a - top) @ np.exp(b))
