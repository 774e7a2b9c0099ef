"""Defines what generation needs of a model family: a decoder that caches keys and values."""

from typing import Any, Protocol, TypeAlias, TypeVar

import jax

from jaxft.layers.heads.backbone import Backbone

Weights = TypeVar("Weights")  # a pytree of arrays
Cache = TypeVar("Cache")  # a pytree of arrays `[R, ...]`, so that rows can be repeated and reordered


class CachedDecoder(Protocol[Weights, Cache]):
    """Reads entire prompts, then one token of each row per step. It is hashable, and equal if it computes the same.

    In shapes, B and R are numbers of rows, P the columns of prompts, T the columns of the cache, and V the vocabulary
    size.
    """

    def prepare_weights(self, backbone: Backbone) -> Weights:
        """Returns the weights of a backbone in the form that decoding takes, in the dtype of its computation."""

    def prefill(
        self, weights: Weights, ids: jax.Array, start: jax.Array, capacity: int
    ) -> tuple[jax.Array, Cache]:
        """Reads prompts that end at the last column.

        Args:
          weights: from `prepare_weights`.
          ids: int32 `[B, P]`, padded on the left.
          start: int32 `[B]`, the column of each prompt's first token.
          capacity: T, the number of columns in the cache, at least P.

        Returns:
          The logits of the next token, float32 `[V, B]`, and the cache, whose first P columns are filled.
        """

    def decode_step(
        self, weights: Weights, cache: Cache, ids: jax.Array, start: jax.Array, column: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Reads one token of each row.

        Args:
          weights: from `prepare_weights`.
          cache: what the columns before `column` left.
          ids: int32 `[R]`, the tokens at `column`.
          start: int32 `[R]`, the column of each row's first token.
          column: int32 scalar, below the cache's capacity.

        Returns:
          The logits of the next token, float32 `[V, R]`, and the cache with `column` filled. XLA writes the cache in
          place if it is the carry of a loop.
        """


AnyDecoder: TypeAlias = CachedDecoder[Any, Any]  # of any family: generation only passes weights and cache on
