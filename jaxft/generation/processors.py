"""What is done to scores before a token is chosen, and the choice by chance.

Scores are float32 `[R, C]`, of the whole vocabulary or, after `top_k`, of candidates. In order: repetition
penalty, repeated n-grams, temperature, top-k, top-p, min-p, as in Hugging Face's `generate`.
"""

import jax
import jax.numpy as jnp


def penalize_repetition(scores: jax.Array, tokens: jax.Array, real: jax.Array, penalty: float) -> jax.Array:
    """Divides positive scores of tokens that a row has by `penalty`, multiplies negative ones.

    scores `[R, V]`, tokens int32 `[R, T]`, real bool `[R, T]` where there is a token. Source: Keskar et al.,
    2019 (CTRL), section 4.1, with the sign taken into account.
    """
    vocabulary = scores.shape[1]
    index = jnp.where(real, tokens, vocabulary)  # beyond the end: dropped
    found = jnp.take_along_axis(scores, jnp.minimum(index, vocabulary - 1), axis=1)
    found = jnp.where(found < 0, found * penalty, found / penalty)
    return scores.at[jnp.arange(len(scores))[:, None], index].set(found, mode="drop")


def forbid_repeated_ngrams(
    scores: jax.Array, tokens: jax.Array, real: jax.Array, end: jax.Array, size: int
) -> jax.Array:
    """Sets scores of tokens that would complete an n-gram of `size` which the row has to -inf.

    tokens int32 `[R, T]` with the last token at column `end - 1`, real bool `[R, T]`; scores `[R, V]`.
    Source: Paulus et al., 2017, section 2.5.
    """
    rows, length = tokens.shape
    if length < size:
        return scores
    starts = length - size + 1
    # Of the n-gram that starts at each column: does it fit, and are its first size - 1 tokens the row's last?
    match = real[:, :starts] & real[:, size - 1 :]
    for place in range(size - 1):
        wanted = jax.lax.dynamic_slice_in_dim(tokens, end - (size - 1) + place, 1, axis=1)
        match &= tokens[:, place : place + starts] == wanted
    forbidden = jnp.where(match, tokens[:, size - 1 :], scores.shape[1])  # beyond the end: dropped
    return scores.at[jnp.arange(rows)[:, None], forbidden].set(-jnp.inf, mode="drop")


def top_k(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` highest scores of each row, highest first, and their int32 indices (Fan et al., 2018)."""
    return jax.lax.top_k(scores, min(count, scores.shape[1]))


def top_p(scores: jax.Array, mass: float) -> jax.Array:
    """Leaves the fewest tokens whose probabilities sum to `mass` or more, others get -inf (Holtzman et al., 2020).

    A token stays where those that are likelier sum to less than `mass`. The least probability that stays is
    found by bisection of the float's bits, 30 sums over the row instead of a sort.
    """
    powers = jnp.exp(scores - scores.max(axis=1, keepdims=True))  # in [0, 1], where bits order as numbers do
    limit = mass * powers.sum(axis=1)

    def enough(bits: jax.Array) -> jax.Array:
        least = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.where(powers > least[:, None], powers, 0.0).sum(axis=1) < limit

    def halve(_, bounds):
        low, high = bounds  # enough(high), and not enough(low)
        middle = low + (high - low) // 2
        fits = enough(middle)
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    ones = jnp.full(len(scores), jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32))
    _, bits = jax.lax.fori_loop(0, 31, halve, (jnp.full_like(ones, -1), ones))
    least = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(powers >= least[:, None], scores, -jnp.inf)


def min_p(scores: jax.Array, share: float) -> jax.Array:
    """Leaves tokens at least `share` times as likely as the likeliest (Nguyen et al., 2024); others get -inf."""
    least = scores.max(axis=1, keepdims=True) + jnp.log(share)
    return jnp.where(scores < least, -jnp.inf, scores)


BLOCK = 256  # of the cumulative sum, taken first over blocks and then within one


def draw(scores: jax.Array, uniform: jax.Array) -> jax.Array:
    """The index, int32 `[R]`, where softmax(scores)'s cumulative sum first exceeds `uniform` `[R]`, in [0, 1)."""
    powers = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    blocks = jnp.pad(powers, ((0, 0), (0, -powers.shape[1] % BLOCK))).reshape(len(powers), -1, BLOCK)
    sums = blocks.sum(axis=2)
    ends = jnp.cumsum(sums, axis=1)
    target = uniform * ends[:, -1]
    block = _first_above(ends, target)[:, None]
    before = jnp.take_along_axis(ends - sums, block, axis=1)[:, 0]
    inside = jnp.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0]
    return block[:, 0] * BLOCK + _first_above(jnp.cumsum(inside, axis=1), target - before)


def _first_above(ends: jax.Array, target: jax.Array) -> jax.Array:
    """The first column of ascending `ends` `[R, C]` that exceeds `target` `[R]`, and whose step is not 0.

    The target is kept within [0, last), which rounding may have moved it out of.
    """
    largest = jnp.nextafter(ends[:, -1], jnp.float32(0))
    target = jnp.clip(target, 0.0, largest)
    return (ends <= target[:, None]).sum(axis=1, dtype=jnp.int32)
