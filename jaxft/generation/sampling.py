"""Runs greedy search and sampling in one loop on the device, from the last token of the prompts to the end."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.generation import processors
from jaxft.generation.options import GenerationOptions
from jaxft.models.decoder import AnyDecoder


class SamplingState(NamedTuple):
    """The state of a batch during generation: R rows, T columns."""

    cache: object  # of the decoder, arrays [R, ...]
    tokens: jax.Array  # int32 [R, T]: padding, prompt, generated tokens
    start: jax.Array  # int32 [R], the column of a row's first token
    end: jax.Array  # int32 scalar, the column after the last token of all rows
    done: jax.Array  # bool [R]
    keys: jax.Array  # random keys [R], each made from (seed, prompt, sample)


@functools.partial(jax.jit, static_argnames=("decoder", "options", "capacity", "eos"))
def begin_sampling(
    weights: object,
    ids: jax.Array,
    start: jax.Array,
    prompt_numbers: jax.Array,
    seed: jax.Array,
    *,
    decoder: AnyDecoder,
    options: GenerationOptions,
    capacity: int,
    eos: int,
) -> SamplingState:
    """Reads the prompts and chooses each row's first token. Each prompt has `options.samples` consecutive rows.

    Args:
      weights: the decoder's weights.
      ids: int32 `[B, P]`, prompts that end with the last column.
      start: int32 `[B]`, the column of each prompt's first token; P for rows that only fill up the batch.
      prompt_numbers: int32 `[B]`, the numbers of the prompts, from which their random keys are made.
      seed: uint32 scalar, the random seed.
      decoder: computes the logits.
      options: how tokens are chosen.
      capacity: T, the number of columns.
      eos: the token that ends a text; -1 for none.
    """
    length, samples = ids.shape[1], options.samples
    is_filling = start >= length
    logits, cache = decoder.prefill(weights, ids, start, capacity)

    def make_key(prompt_number: jax.Array, sample: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt_number), sample)

    keys = jax.vmap(lambda number: jax.vmap(lambda sample: make_key(number, sample))(jnp.arange(samples)))(
        prompt_numbers
    ).reshape(-1)
    repeat = functools.partial(jnp.repeat, repeats=samples, axis=0)
    state = SamplingState(
        cache=jax.tree.map(repeat, cache),
        tokens=jnp.pad(repeat(ids), ((0, 0), (0, capacity - length))),
        start=repeat(start),
        end=jnp.int32(length),
        done=repeat(is_filling),
        keys=keys,
    )
    return _append(state, jnp.repeat(logits, samples, axis=1), length, options, eos)


@functools.partial(jax.jit, static_argnames=("decoder", "options", "length", "eos"), donate_argnames="state")
def extend_samples(
    weights: object,
    state: SamplingState,
    limit: jax.Array,
    *,
    decoder: AnyDecoder,
    options: GenerationOptions,
    length: int,
    eos: int,
) -> SamplingState:
    """Continues until all rows are done or have `limit` new tokens.

    Args:
      weights: the decoder's weights.
      state: the batch; its arrays are donated.
      limit: int32 scalar, the maximum number of new tokens.
      decoder: computes the logits.
      options: how tokens are chosen.
      length: P, the number of columns of the prompts.
      eos: the token that ends a text; -1 for none.
    """

    def has_more(state: SamplingState) -> jax.Array:
        return (state.end - length < limit) & ~state.done.all()

    def step(state: SamplingState) -> SamplingState:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.end - 1, 1, axis=1)[:, 0]
        logits, cache = decoder.decode_step(weights, state.cache, last, state.start, state.end - 1)
        return _append(state._replace(cache=cache), logits, length, options, eos)

    return jax.lax.while_loop(has_more, step, state)


def _append(
    state: SamplingState, logits: jax.Array, length: int, options: GenerationOptions, eos: int
) -> SamplingState:
    """Appends a token to each row, chosen from its logits `[V, R]`. Rows that are done get 0, which is never read."""
    chosen = jnp.where(state.done, 0, choose_tokens(logits, state, length, options))
    return state._replace(
        tokens=jax.lax.dynamic_update_slice(state.tokens, chosen[:, None], (0, state.end)),
        end=state.end + 1,
        done=state.done | (chosen == eos),
    )


def choose_tokens(
    logits: jax.Array, state: SamplingState, length: int, options: GenerationOptions
) -> jax.Array:
    """Chooses the next token of each row, int32 `[R]`, from logits, float32 `[V, R]`. `length` is P."""
    if options.temperature == 0 and options.repetition_penalty == 1 and not options.no_repeat_ngram:
        return _likeliest(logits, axis=0)
    scores = penalize_scores(logits.T, state.tokens, state.start, state.end, options)
    if options.temperature == 0:
        return _likeliest(scores, axis=1)
    scores = scores / options.temperature
    candidates = None
    if options.top_k:
        scores, candidates = processors.select_top_k(scores, options.top_k)
    if options.top_p < 1:
        scores = processors.keep_top_p(scores, options.top_p)
    if options.min_p:
        scores = processors.keep_min_p(scores, options.min_p)
    new_tokens = state.end - length
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, new_tokens)))(state.keys)
    chosen = processors.draw(scores, uniform)
    if candidates is None:
        return chosen
    return jnp.take_along_axis(candidates, chosen[:, None], axis=1)[:, 0]


def penalize_scores(
    scores: jax.Array, tokens: jax.Array, start: jax.Array, end: jax.Array, options: GenerationOptions
) -> jax.Array:
    """Applies to scores `[R, V]` the penalties that depend on a row's tokens `[R, T]` from column `start` to `end`."""
    columns = jnp.arange(tokens.shape[1])
    is_token = (columns >= start[:, None]) & (columns < end)
    if options.repetition_penalty != 1:
        scores = processors.penalize_repetition(scores, tokens, is_token, options.repetition_penalty)
    if options.no_repeat_ngram:
        scores = processors.forbid_repeated_ngrams(scores, tokens, is_token, end, options.no_repeat_ngram)
    return scores


def _likeliest(scores: jax.Array, axis: int) -> jax.Array:
    """Returns the argmax (the first of ties) by two plain reductions, because XLA:CPU does not vectorize its argmax."""
    indices = jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    is_best = scores == scores.max(axis=axis, keepdims=True)
    return jnp.where(is_best, indices, scores.shape[axis] - 1).min(axis=axis)
