"""Computes attention by jax's splash kernel, for TPUs."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxft.layers.attention.interface import EVERYTHING, RelativeTerms, Visibility
from jaxft.layers.attention.limits import choose_splash_block
from jaxft.layers.dropout import DropoutSeed


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    num_heads: int,
    visibility: Visibility = EVERYTHING,
    relative: RelativeTerms | None = None,
    rate: float = 0.0,
    seed: DropoutSeed | None = None,
    site: int | jax.Array = 0,
    first_head: int | jax.Array = 0,
    interpret: bool = False,
) -> jax.Array:
    """Computes `Attention` by the splash kernel of jax's Pallas library, for one TPU core.

    It has no relative terms and no dropout. Splash is a flash attention (Dao et al., 2022). It holds one block of
    scores at a time, forward and backward, so memory grows with L and not with its square. It skips blocks that the
    window or the direction hides. It does not skip blocks between two segments: without a window, time grows with the
    square of L, however a row is packed.

    L must be a multiple of 128. In jax 0.10.2 heads may have any width. A TPU holds and multiplies them in lanes of
    128, so heads of 64 need the memory and time of heads of 128.

    Args:
      interpret: runs the kernel on any platform, slowly, for tests.
      others: as in `Attention`; `relative`, `seed` and `first_head` are not used.

    Returns:
      `[R * L, D]` in q's dtype.
    """
    del relative, rate, seed, site, first_head
    # Imported late, because the import is slow and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    rows, length = segment_ids.shape
    scale = (q.shape[-1] // num_heads) ** -0.5
    q, k, v = (
        x.reshape(rows, length, num_heads, -1).swapaxes(1, 2) for x in (q * jnp.asarray(scale, q.dtype), k, v)
    )
    mask = _make_mask(library, length, visibility)
    block = choose_splash_block(length)
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([mask] * num_heads),
        block_sizes=library.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    mixed = jax.vmap(kernel)(q, k, v, library.SegmentIds(segment_ids, segment_ids))
    return mixed.swapaxes(1, 2).reshape(rows * length, -1)


def _make_mask(library: Any, length: int, visibility: Visibility) -> Any:
    """Returns splash's mask of rows of `length` slots."""
    if visibility.window is not None:
        after = 0 if visibility.causal else visibility.window
        return library.LocalMask((length, length), (visibility.window, after), offset=0)
    return (library.CausalMask if visibility.causal else library.FullMask)((length, length))
