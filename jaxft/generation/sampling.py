"""Greedy search and sampling: one loop on the device from the prompts' last token to the end."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.generation import processors
from jaxft.generation.options import GenerationOptions
from jaxft.models.gpt2 import cached_decoder
from jaxft.models.gpt2.cached_decoder import Cache, DecoderSizes, DecoderWeights


class State(NamedTuple):
    """Rows in the middle of their generation; R rows, T columns."""

    cache: Cache
    tokens: jax.Array  # int32 [R, T]: padding, prompt, what was generated
    start: jax.Array  # int32 [R], the column of a row's first token
    end: jax.Array  # int32 scalar, the column after all rows' last token
    done: jax.Array  # bool [R]
    keys: jax.Array  # random keys [R], of (seed, prompt, sample)


@functools.partial(jax.jit, static_argnames=("sizes", "options", "capacity", "eos"))
def begin_sampling(
    weights: DecoderWeights,
    ids: jax.Array,
    start: jax.Array,
    prompts: jax.Array,
    seed: jax.Array,
    *,
    sizes: DecoderSizes,
    options: GenerationOptions,
    capacity: int,
    eos: int,
) -> State:
    """Reads the prompts and chooses each row's first token; `options.samples` rows a prompt, side by side.

    Args:
      ids: int32 `[B, P]`, prompts that end with the last column.
      start: int32 `[B]`, the column of each prompt's first token; P for a row that is only there as filling.
      prompts: int32 `[B]`, numbers of the prompts, which their random numbers depend on.
      seed: uint32 scalar.
      capacity: T. eos: the token that ends a text, -1 for none.
    """
    length, samples = ids.shape[1], options.samples
    empty = start >= length
    logits, cache = cached_decoder.prefill(weights, sizes, ids, start, capacity)

    def key(prompt, sample):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), sample)

    keys = jax.vmap(lambda p: jax.vmap(lambda s: key(p, s))(jnp.arange(samples)))(prompts).reshape(-1)
    repeated = functools.partial(jnp.repeat, repeats=samples, axis=0)
    state = State(
        jax.tree.map(repeated, cache),
        jnp.pad(repeated(ids), ((0, 0), (0, capacity - length))),
        repeated(start),
        jnp.int32(length),
        repeated(empty),
        keys,
    )
    return _append(state, jnp.repeat(logits, samples, axis=1), length, options, eos)


@functools.partial(jax.jit, static_argnames=("sizes", "options", "length", "eos"), donate_argnames="state")
def extend_samples(
    weights: DecoderWeights,
    state: State,
    until: jax.Array,
    *,
    sizes: DecoderSizes,
    options: GenerationOptions,
    length: int,
    eos: int,
) -> State:
    """Goes on until all rows are done or have `until` new tokens, an int32 scalar. length: P."""

    def more(state: State) -> jax.Array:
        return (state.end - length < until) & ~state.done.all()

    def advance(state: State) -> State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.end - 1, 1, axis=1)[:, 0]
        logits, cache = cached_decoder.decode_step(
            weights, sizes, state.cache, last, state.start, state.end - 1
        )
        return _append(state._replace(cache=cache), logits, length, options, eos)

    return jax.lax.while_loop(more, advance, state)


def _append(state: State, logits: jax.Array, length: int, options: GenerationOptions, eos: int) -> State:
    """Chooses a token for each row by its logits `[V, R]`; rows that are done get 0, which nobody reads."""
    chosen = jnp.where(state.done, 0, choose_tokens(logits, state, length, options))
    return state._replace(
        tokens=jax.lax.dynamic_update_slice(state.tokens, chosen[:, None], (0, state.end)),
        end=state.end + 1,
        done=state.done | (chosen == eos),
    )


def choose_tokens(logits: jax.Array, state: State, length: int, options: GenerationOptions) -> jax.Array:
    """The next token of each row, int32 `[R]`, by logits float32 `[V, R]`."""
    if options.temperature == 0 and options.repetition_penalty == 1 and not options.no_repeat_ngram:
        return _likeliest(logits, axis=0)
    scores = penalize_scores(logits.T, state.tokens, state.start, state.end, options)
    if options.temperature == 0:
        return _likeliest(scores, axis=1)
    scores = scores / options.temperature
    candidates = None
    if options.top_k:
        scores, candidates = processors.top_k(scores, options.top_k)
    if options.top_p < 1:
        scores = processors.top_p(scores, options.top_p)
    if options.min_p:
        scores = processors.min_p(scores, options.min_p)
    step = state.end - length
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step)))(state.keys)
    chosen = processors.draw(scores, uniform)
    if candidates is None:
        return chosen
    return jnp.take_along_axis(candidates, chosen[:, None], axis=1)[:, 0]


def penalize_scores(
    scores: jax.Array, tokens: jax.Array, start: jax.Array, end: jax.Array, options: GenerationOptions
) -> jax.Array:
    """Scores `[R, V]` after the penalties that depend on a row's tokens `[R, T]` in [start, end)."""
    columns = jnp.arange(tokens.shape[1])
    real = (columns >= start[:, None]) & (columns < end)
    if options.repetition_penalty != 1:
        scores = processors.penalize_repetition(scores, tokens, real, options.repetition_penalty)
    if options.no_repeat_ngram:
        scores = processors.forbid_repeated_ngrams(scores, tokens, real, end, options.no_repeat_ngram)
    return scores


def _likeliest(scores: jax.Array, axis: int) -> jax.Array:
    """argmax, the first of equals, as two plain reductions: XLA:CPU does not vectorize the joint one."""
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    best = scores == scores.max(axis=axis, keepdims=True)
    return jnp.where(best, places, scores.shape[axis] - 1).min(axis=axis)
