"""Computes the largest states of segments, in memory that grows with rows and not with their square."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def segment_max(x: jax.Array, segment_ids: jax.Array, last: jax.Array) -> jax.Array:
    """Returns the largest of each segment's states, at each feature.

    Equal states share the gradient. It is hand-written: that of a masked maximum takes arrays `[R, S, L, D]`.

    Args:
      x: the states, `[R, L, D]`.
      segment_ids: int32 `[R, L]`, k + 1 in segment k, whose slots are next to each other; 0 at padding.
      last: int32 `[R, S]`, the last slot of each segment.

    Returns:
      `[R, S, D]`; undefined for a segment that a row does not have.
    """
    return _forward(x, segment_ids, last)[0]


def _forward(x: jax.Array, segment_ids: jax.Array, last: jax.Array):
    def combine(left, right):
        """Returns the maximum up to a slot in its segment, and the segment, from those of two neighbouring ranges."""
        (before, segment), (after, next_segment) = left, right
        return jnp.where(segment == next_segment, jnp.maximum(before, after), after), next_segment

    running, _ = jax.lax.associative_scan(combine, (x, segment_ids[..., None]), axis=1)
    largest = jnp.take_along_axis(running, last[..., None], axis=1)
    return largest, (x, segment_ids, largest)


def _backward(residuals, gradient: jax.Array):
    x, segment_ids, largest = residuals
    segments = jnp.arange(1, largest.shape[1] + 1)
    member = segment_ids[:, None] == segments[None, :, None]  # [R, S, L]

    def at_slots(values: jax.Array) -> jax.Array:
        """Returns the values `[R, S, D]` of segments at their slots, `[R, L, D]`; those of padding are undefined."""
        return jnp.take_along_axis(values, jnp.maximum(segment_ids - 1, 0)[..., None], axis=1)

    is_largest = (x == at_slots(largest)) & (segment_ids > 0)[..., None]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    count = jnp.einsum(
        "rsl,rld->rsd", member.astype(x.dtype), is_largest.astype(x.dtype), preferred_element_type=dtype
    )
    share = (gradient / jnp.maximum(count, 1)).astype(x.dtype)
    return jnp.where(is_largest, at_slots(share), 0), None, None


segment_max.defvjp(_forward, _backward)
