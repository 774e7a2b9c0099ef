"""Changes the scores of tokens before a token is chosen, and draws tokens at random.

Scores are float32 `[R, C]`. C is the size of the vocabulary or, after `select_top_k`, the number of candidates. As in
Hugging Face's `generate`, the order is repetition penalty, repeated n-grams, temperature, top-k, top-p, min-p.
"""

import jax
import jax.numpy as jnp


def penalize_repetition(
    scores: jax.Array, tokens: jax.Array, is_token: jax.Array, penalty: float
) -> jax.Array:
    """Lowers the scores of tokens that a row already has: divides positive ones by `penalty`, multiplies negative ones.

    Source: Keskar et al., 2019 (CTRL), section 4.1, extended to negative scores.

    Args:
      scores: `[R, V]`.
      tokens: int32 `[R, T]`.
      is_token: bool `[R, T]`, False at columns without a token.
      penalty: the factor; values above 1 lower scores.
    """
    vocabulary = scores.shape[1]
    index = jnp.where(is_token, tokens, vocabulary)  # out of range, so that the update is dropped
    penalized = jnp.take_along_axis(scores, jnp.minimum(index, vocabulary - 1), axis=1)
    penalized = jnp.where(penalized < 0, penalized * penalty, penalized / penalty)
    return scores.at[jnp.arange(len(scores))[:, None], index].set(penalized, mode="drop")


def forbid_repeated_ngrams(
    scores: jax.Array, tokens: jax.Array, is_token: jax.Array, end: jax.Array, size: int
) -> jax.Array:
    """Sets the scores of tokens that would repeat an n-gram of the row to -inf.

    Source: Paulus et al., 2017, section 2.5.

    Args:
      scores: `[R, V]`.
      tokens: int32 `[R, T]`; the last token is at column `end - 1`.
      is_token: bool `[R, T]`, False at columns without a token.
      end: int32 scalar, the column after the last token.
      size: number of tokens in an n-gram.
    """
    rows, length = tokens.shape
    if length < size:
        return scores
    starts = length - size + 1
    # True at each column where an n-gram starts that begins with the last size - 1 tokens of the row.
    matches = is_token[:, :starts] & is_token[:, size - 1 :]
    for offset in range(size - 1):
        last_token = jax.lax.dynamic_slice_in_dim(tokens, end - (size - 1) + offset, 1, axis=1)
        matches &= tokens[:, offset : offset + starts] == last_token
    forbidden = jnp.where(
        matches, tokens[:, size - 1 :], scores.shape[1]
    )  # out of range, so that the update is dropped
    return scores.at[jnp.arange(rows)[:, None], forbidden].set(-jnp.inf, mode="drop")


def select_top_k(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `count` highest scores of each row, highest first, and their int32 indices (Fan et al., 2018)."""
    return jax.lax.top_k(scores, min(count, scores.shape[1]))


def keep_top_p(scores: jax.Array, mass: float) -> jax.Array:
    """Keeps the fewest tokens whose probabilities sum to `mass` or more; sets others to -inf (Holtzman et al., 2020).

    A token is kept if all likelier tokens sum to less than `mass`. The smallest probability to keep is found by
    bisection over the bits of the float, which takes 30 sums over the row instead of a sort.
    """
    powers = jnp.exp(
        scores - scores.max(axis=1, keepdims=True)
    )  # in [0, 1], where bit patterns have the same order as numbers
    limit = mass * powers.sum(axis=1)

    def can_be_least(bits: jax.Array) -> jax.Array:
        """Returns True if the powers above this one sum to less than the limit."""
        least = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.where(powers > least[:, None], powers, 0.0).sum(axis=1) < limit

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # invariant: can_be_least(high) and not can_be_least(low)
        middle = low + (high - low) // 2
        is_high = can_be_least(middle)
        return jnp.where(is_high, low, middle), jnp.where(is_high, middle, high)

    ones = jnp.full(len(scores), jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32))
    _, bits = jax.lax.fori_loop(0, 31, halve, (jnp.full_like(ones, -1), ones))
    least = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(powers >= least[:, None], scores, -jnp.inf)


def keep_min_p(scores: jax.Array, share: float) -> jax.Array:
    """Keeps tokens at least `share` times as likely as the likeliest; sets others to -inf (Nguyen et al., 2024)."""
    least = scores.max(axis=1, keepdims=True) + jnp.log(share)
    return jnp.where(scores < least, -jnp.inf, scores)


BLOCK = 256  # columns in a block; the cumulative sum is taken over blocks first, then within one block


def draw(scores: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draws a token for each row from the softmax of its scores.

    Args:
      scores: float32 `[R, C]`.
      uniform: float32 `[R]`, random numbers in [0, 1).

    Returns:
      int32 `[R]`, the index at which the cumulative sum of the probabilities first exceeds `uniform`.
    """
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
    """Returns the first column where ascending `ends` `[R, C]` exceeds `target` `[R]` and increases.

    Rounding may have moved the target out of [0, last end), so it is clipped to this range.
    """
    largest = jnp.nextafter(ends[:, -1], jnp.float32(0))
    target = jnp.clip(target, 0.0, largest)
    return (ends <= target[:, None]).sum(axis=1, dtype=jnp.int32)
