"""Lists what each attention kernel can compute."""

import jax.numpy as jnp

KERNELS_WITH_DROPOUT = ("flash",)
LANES = 128  # the lanes of a TPU's vector registers
FLASH_BLOCK = 64  # the queries or keys of one flash block: the quickest of 32, 64 and 128 on an H100


def find_obstacle(
    kernel: str, *, length: int, head_width: int, dtype: jnp.dtype, has_relative_bias: bool
) -> str | None:
    """Returns why a kernel cannot compute attention of this shape; None if it can.

    Splash's limits are the checks in splash_attention_kernel.py of jax 0.10.2.

    Args:
      kernel: "splash" or "flash".
      length: the number of slots in a row.
      head_width: the width of a head.
      dtype: the dtype of queries, keys and values.
      has_relative_bias: whether scores get a bias by distance.
    """
    if has_relative_bias:
        return "adds no bias to scores, which this model needs"
    if kernel == "splash":
        return f"takes rows of a multiple of {LANES}, not {length}" if length % LANES else None
    if dtype != jnp.bfloat16:
        return f"computes in bfloat16, not {jnp.dtype(dtype).name}"
    if head_width not in (16, 32, 64, 128):
        return f"takes heads of 16, 32, 64 or 128, not {head_width}"
    return f"takes rows of a multiple of {FLASH_BLOCK}, not {length}" if length % FLASH_BLOCK else None
