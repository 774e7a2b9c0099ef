"""Computes attention to a prefix: keys and values that every query of a layer sees (Li & Liang, 2021).

The prefix is the same for all rows, so it is no part of them. Attention to it and attention within segments are
computed apart and then joined, each with its share of the sum of exponentials (He et al., 2022, equation 7).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.layers.attention.interface import Prefix, RelativeTerms
from jaxft.layers.attention.scores import batched_dot, merge_heads, scale_of, split_heads
from jaxft.layers.dropout import DropoutSeed, draw_from_hashes, hash_attention_weights


def attend_with_prefix(
    implementation: Callable[..., Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    prefix: Prefix,
    num_heads: int,
    relative: RelativeTerms | None = None,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
    **options: Any,
) -> jax.Array:
    """Computes `Attention` with a prefix on one device.

    Args:
      implementation: computes attention within segments. With `returns_totals`, it also returns, for each query and
        head, the logarithm of the sum of the exponentials of its scores, `[R * L, H]`.
      prefix: keys and values `[P, D]`.
      first_head: the global number of the first head here, if other devices compute the heads before it.
      options: other arguments of `implementation`.
      others: as in `Attention`.

    Returns:
      `[R * L, D]` in q's dtype.
    """
    rest = {"relative": relative, "rate": rate, "seed": seed, "site": site, "first_head": first_head}
    mixed, totals = implementation(
        q, k, v, segment_ids, num_heads=num_heads, returns_totals=True, **rest, **options
    )
    scale = jnp.asarray(scale_of(q.shape[1] // num_heads, relative), q.dtype)
    queries, keys, values, mixed = (
        split_heads(x.astype(q.dtype), 1, num_heads) for x in (q * scale, prefix.keys, prefix.values, mixed)
    )
    scores = batched_dot(queries, keys, 2, 2)  # [H, R * L, P]
    own_total = totals.T
    total = jnp.logaddexp(own_total, jax.nn.logsumexp(scores, axis=-1))
    weights = jnp.exp(scores - total[..., None])
    if seed is not None and rate:
        rows, length = segment_ids.shape
        hashes = hash_attention_weights(rows, num_heads, length, seed, site, first_head)
        hashes = hashes.swapaxes(0, 1).reshape(num_heads, rows * length, 1)
        slots = length + jnp.arange(keys.shape[1], dtype=jnp.uint32)  # those after the row's
        weights = jnp.where(draw_from_hashes(hashes, slots, rate), weights / (1.0 - rate), 0.0)
    share = jnp.exp(own_total - total)[..., None]
    joined = share * mixed + batched_dot(weights.astype(q.dtype), values, 2, 1)
    return merge_heads(joined.astype(q.dtype), 1)
