"""Runs beam search with a length penalty, as defined by Hugging Face's `generate`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.generation.options import GenerationOptions
from jaxft.generation.sampling import penalize_scores
from jaxft.models.decoder import AnyDecoder

NEVER = -1e9  # lower than the score of any text; sums with it stay finite


class Beams(NamedTuple):
    """The state of a batch during the search: B prompts, each with K open and K ended texts.

    T is the number of columns, and N is the maximum number of new tokens.
    """

    cache: object  # of the decoder, arrays [B * K, ...]
    tokens: jax.Array  # int32 [B, K, T], open texts: padding, prompt, generated tokens
    scores: jax.Array  # float32 [B, K], open texts: summed log probabilities, highest first
    start: jax.Array  # int32 [B * K], the column of a row's first token
    end: jax.Array  # int32 scalar, the column after the last token
    ended_tokens: jax.Array  # int32 [B, K, N], ended texts: generated tokens
    ended_length: jax.Array  # int32 [B, K]
    ended_scores: jax.Array  # float32 [B, K], score / length ** penalty, highest first
    has_ended: jax.Array  # bool [B, K], True if this place holds an ended text
    is_open: jax.Array  # bool [B], True if an open text may still become one of the best


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the elements `index` `[B, J]` of the second axis."""
    return jnp.take_along_axis(array, index.reshape(*index.shape, *(1,) * (array.ndim - 2)), axis=1)


@functools.partial(jax.jit, static_argnames=("decoder", "options", "capacity", "eos"))
def beam_search(
    weights: object,
    ids: jax.Array,
    start: jax.Array,
    limit: jax.Array,
    *,
    decoder: AnyDecoder,
    options: GenerationOptions,
    capacity: int,
    eos: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the best texts of each prompt.

    Args:
      weights: the decoder's weights.
      ids: int32 `[B, P]`, prompts that end with the last column.
      start: int32 `[B]`, the column of each prompt's first token; P for rows that only fill up the batch.
      limit: int32 scalar, the maximum number of new tokens; at most `capacity` - P.
      decoder: computes the logits.
      options: how tokens are chosen.
      capacity: T, the number of columns.
      eos: the token that ends a text; -1 for none.

    Returns:
      (tokens, lengths, scores), best first: int32 `[B, K, capacity - P]`; int32 `[B, K]`, the number of tokens with the
      end token; float32 `[B, K]`.
    """
    (rows, length), width = ids.shape, options.beams
    logits, cache = decoder.prefill(weights, ids, start, capacity)
    repeat = functools.partial(jnp.repeat, repeats=width, axis=0)
    shape = (rows, width)
    beams = Beams(
        cache=jax.tree.map(repeat, cache),
        tokens=repeat(jnp.pad(ids, ((0, 0), (0, capacity - length)))).reshape(*shape, capacity),
        # All beams of a prompt are equal at first, so only one may continue.
        scores=jnp.full(shape, NEVER, jnp.float32).at[:, 0].set(0.0),
        start=repeat(start),
        end=jnp.int32(length),
        ended_tokens=jnp.zeros((*shape, capacity - length), jnp.int32),
        ended_length=jnp.zeros(shape, jnp.int32),
        ended_scores=jnp.full(shape, NEVER, jnp.float32),
        has_ended=jnp.zeros(shape, bool),
        is_open=start < length,
    )
    beams = _extend(beams, jnp.repeat(logits, width, axis=1), limit, length, options, eos)

    def has_more(beams: Beams) -> jax.Array:
        return (beams.end - length < limit) & beams.is_open.any()

    def step(beams: Beams) -> Beams:
        last = jax.lax.dynamic_slice_in_dim(beams.tokens, beams.end - 1, 1, axis=2).reshape(-1)
        logits, cache = decoder.decode_step(weights, beams.cache, last, beams.start, beams.end - 1)
        return _extend(beams._replace(cache=cache), logits, limit, length, options, eos)

    beams = jax.lax.while_loop(has_more, step, beams)
    return beams.ended_tokens, beams.ended_length, beams.ended_scores


def _extend(
    beams: Beams, logits: jax.Array, limit: jax.Array, length: int, options: GenerationOptions, eos: int
) -> Beams:
    """Extends all open texts by their best tokens. `logits` are float32 `[V, B * K]`; `length` is P."""
    rows, width, capacity = beams.tokens.shape
    scores = jax.nn.log_softmax(logits.T)
    flat_tokens = beams.tokens.reshape(rows * width, capacity)
    scores = penalize_scores(scores, flat_tokens, beams.start, beams.end, options)
    vocabulary = scores.shape[1]
    scores = scores.reshape(rows, width, vocabulary) + beams.scores[:, :, None]
    # Twice as many candidates as beams, so that K open texts remain even if the best K candidates all end.
    candidate_scores, index = jax.lax.top_k(scores.reshape(rows, -1), 2 * width)
    parent, token = index // vocabulary, index % vocabulary
    tokens = jax.lax.dynamic_update_slice(
        _take(beams.tokens, parent), token[:, :, None].astype(jnp.int32), (0, 0, beams.end)
    )
    new_tokens = beams.end + 1 - length  # number of new tokens in each text, including the current one
    ends = (token == eos) | (new_tokens >= limit)

    # Candidates in the best half that end here compete with the texts that ended before.
    is_closed = ~beams.is_open | (options.early_stopping & beams.has_ended.all(axis=1))
    enters = ends & (jnp.arange(2 * width) < width) & ~is_closed[:, None]
    normalized = candidate_scores / new_tokens.astype(jnp.float32) ** options.length_penalty
    merged = jnp.concatenate([beams.ended_scores, jnp.where(enters, normalized, NEVER)], axis=1)
    ended_scores, kept = jax.lax.top_k(merged, width)
    generated = tokens[:, :, length:]
    lengths = jnp.broadcast_to(new_tokens, enters.shape).astype(jnp.int32)
    has_ended = _take(jnp.concatenate([beams.has_ended, enters], axis=1), kept)

    # The best candidates that do not end continue.
    open_scores, open_index = jax.lax.top_k(
        jnp.where(ends, candidate_scores + NEVER, candidate_scores), width
    )
    cache_row = _take(parent, open_index) + width * jnp.arange(rows)[:, None]
    worst = jnp.where(has_ended.all(axis=1), ended_scores[:, -1], NEVER)
    is_hopeful = open_scores[:, 0] / new_tokens.astype(jnp.float32) ** options.length_penalty > worst
    if options.early_stopping:
        is_hopeful &= ~has_ended.all(axis=1)
    return Beams(
        cache=jax.tree.map(lambda x: x[cache_row.reshape(-1)], beams.cache),
        tokens=_take(tokens, open_index),
        scores=open_scores,
        start=beams.start,
        end=beams.end + 1,
        ended_tokens=_take(jnp.concatenate([beams.ended_tokens, generated], axis=1), kept),
        ended_length=_take(jnp.concatenate([beams.ended_length, lengths], axis=1), kept),
        ended_scores=ended_scores,
        has_ended=has_ended,
        is_open=beams.is_open & is_hopeful,
    )
