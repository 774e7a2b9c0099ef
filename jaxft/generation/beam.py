"""Beam search with length penalty, as Hugging Face's `generate` defines it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.generation.options import GenerationOptions
from jaxft.generation.sampling import penalize_scores
from jaxft.models.gpt2 import cached_decoder
from jaxft.models.gpt2.cached_decoder import Cache, DecoderSizes, DecoderWeights

NEVER = -1e9  # a score that no text has; sums with it stay finite


class Beams(NamedTuple):
    """B prompts with K texts that go on and K that have ended; T columns; N most new tokens."""

    cache: Cache  # of B * K rows
    tokens: jax.Array  # int32 [B, K, T], of those that go on: padding, prompt, what was generated
    scores: jax.Array  # float32 [B, K], their summed log probabilities, highest first
    start: jax.Array  # int32 [B * K], the column of a row's first token
    end: jax.Array  # int32 scalar, the column after the last token
    ended_tokens: jax.Array  # int32 [B, K, N], what was generated
    ended_length: jax.Array  # int32 [B, K]
    ended_scores: jax.Array  # float32 [B, K], divided by length to the power of the penalty, highest first
    ended: jax.Array  # bool [B, K], whether there is a text
    open: jax.Array  # bool [B], whether a text that goes on may still become one of the best


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    """Elements `index` `[B, J]` of the second axis."""
    return jnp.take_along_axis(array, index.reshape(*index.shape, *(1,) * (array.ndim - 2)), axis=1)


@functools.partial(jax.jit, static_argnames=("sizes", "options", "capacity", "eos"))
def beam_search(
    weights: DecoderWeights,
    ids: jax.Array,
    start: jax.Array,
    most: jax.Array,
    *,
    sizes: DecoderSizes,
    options: GenerationOptions,
    capacity: int,
    eos: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best texts of each prompt.

    Args:
      ids: int32 `[B, P]`, prompts that end with the last column.
      start: int32 `[B]`, the column of each prompt's first token; P for a row that is only there as filling.
      most: int32 scalar, new tokens at most, `capacity` - P or less.
      capacity: T. eos: the token that ends a text, -1 for none.

    Returns:
      Tokens int32 `[B, K, capacity - P]`, best first, their number int32 `[B, K]`, the end token included, and
      scores float32 `[B, K]`.
    """
    (rows, length), width = ids.shape, options.beams
    logits, cache = cached_decoder.prefill(weights, sizes, ids, start, capacity)
    repeated = functools.partial(jnp.repeat, repeats=width, axis=0)
    shape = (rows, width)
    beams = Beams(
        jax.tree.map(repeated, cache),
        repeated(jnp.pad(ids, ((0, 0), (0, capacity - length)))).reshape(*shape, capacity),
        # All beams of a prompt are equal yet: only the first may go on.
        jnp.full(shape, NEVER, jnp.float32).at[:, 0].set(0.0),
        repeated(start),
        jnp.int32(length),
        jnp.zeros((*shape, capacity - length), jnp.int32),
        jnp.zeros(shape, jnp.int32),
        jnp.full(shape, NEVER, jnp.float32),
        jnp.zeros(shape, bool),
        start < length,
    )
    beams = _advance(beams, jnp.repeat(logits, width, axis=1), most, length, options, eos)

    def more(beams: Beams) -> jax.Array:
        return (beams.end - length < most) & beams.open.any()

    def advance(beams: Beams) -> Beams:
        last = jax.lax.dynamic_slice_in_dim(beams.tokens, beams.end - 1, 1, axis=2).reshape(-1)
        logits, cache = cached_decoder.decode_step(
            weights, sizes, beams.cache, last, beams.start, beams.end - 1
        )
        return _advance(beams._replace(cache=cache), logits, most, length, options, eos)

    beams = jax.lax.while_loop(more, advance, beams)
    return beams.ended_tokens, beams.ended_length, beams.ended_scores


def _advance(
    beams: Beams, logits: jax.Array, most: jax.Array, length: int, options: GenerationOptions, eos: int
) -> Beams:
    """Lengthens all texts by the best tokens; logits float32 `[V, B * K]`."""
    rows, width, capacity = beams.tokens.shape
    scores = jax.nn.log_softmax(logits.T)
    flat = beams.tokens.reshape(rows * width, capacity)
    scores = penalize_scores(scores, flat, beams.start, beams.end, options)
    vocabulary = scores.shape[1]
    scores = scores.reshape(rows, width, vocabulary) + beams.scores[:, :, None]
    # Twice as many as beams: should all of the best end, as many are left to go on.
    best, index = jax.lax.top_k(scores.reshape(rows, -1), 2 * width)
    parent, token = index // vocabulary, index % vocabulary
    tokens = jax.lax.dynamic_update_slice(
        _take(beams.tokens, parent), token[:, :, None].astype(jnp.int32), (0, 0, beams.end)
    )
    new = beams.end + 1 - length  # tokens that each text now has beyond its prompt
    ends = (token == eos) | (new >= most)

    # Those that ended just now, among the best, compete with those that ended before.
    closed = ~beams.open | (options.early_stopping & beams.ended.all(axis=1))
    fits = ends & (jnp.arange(2 * width) < width) & ~closed[:, None]
    normalized = best / new.astype(jnp.float32) ** options.length_penalty
    merged = jnp.concatenate([beams.ended_scores, jnp.where(fits, normalized, NEVER)], axis=1)
    ended_scores, kept = jax.lax.top_k(merged, width)
    generated = tokens[:, :, length:]
    lengths = jnp.broadcast_to(new, fits.shape).astype(jnp.int32)
    ended = _take(jnp.concatenate([beams.ended, fits], axis=1), kept)

    best, going = jax.lax.top_k(jnp.where(ends, best + NEVER, best), width)
    parent = _take(parent, going) + width * jnp.arange(rows)[:, None]
    worst = jnp.where(ended.all(axis=1), ended_scores[:, -1], NEVER)
    hopeful = best[:, 0] / new.astype(jnp.float32) ** options.length_penalty > worst
    if options.early_stopping:
        hopeful &= ~ended.all(axis=1)
    return Beams(
        jax.tree.map(lambda x: x[parent.reshape(-1)], beams.cache),
        _take(tokens, going),
        best,
        beams.start,
        beams.end + 1,
        _take(jnp.concatenate([beams.ended_tokens, generated], axis=1), kept),
        _take(jnp.concatenate([beams.ended_length, lengths], axis=1), kept),
        ended_scores,
        ended,
        beams.open & hopeful,
    )
