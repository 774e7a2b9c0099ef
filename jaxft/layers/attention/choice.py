"""Chooses the attention implementation and lays it over the mesh."""

import functools
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxft.errors import UserError
from jaxft.layers.attention.dense import dense_attention, dense_in_blocks
from jaxft.layers.attention.limits import WITH_DROPOUT, kernel_obstacle
from jaxft.layers.attention.splash import splash_attention
from jaxft.layers.dropout import DropoutSeed, vector_hashes
from jaxft.parallel.mesh import BATCH_SPEC


class Attention(Protocol):
    """What a backbone computes attention by: `dense`, or something that gives the same."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        segment_ids: jax.Array,
        *,
        num_heads: int,
        causal: bool = False,
        rate: float = 0.0,
        seed: DropoutSeed | None = None,
        site: int | jax.Array = 0,
    ) -> jax.Array:
        """See `dense`."""


def make_attention(name: str, mesh: Mesh, *, block: int = 0, every: int = 0) -> Attention:
    """Attention over `mesh`: "dense", or a kernel of `attention.KERNELS`.

    Each device computes that of its own rows, and of its own heads where they divide over `tensor` (if not, of all).
    What a kernel cannot compute, such as the short rows of a batch in length buckets, is computed as "dense" is.

    block, every: what is known of segments, see `packing.Shape`. It serves dense attention.
    """
    dense = functools.partial(dense_in_blocks, block=block, every=every) if block else dense_attention
    tensor = mesh.shape["tensor"]

    def attend(q, k, v, segment_ids, *, num_heads, causal=False, rate=0.0, seed=None, site=0):
        length = segment_ids.shape[1]
        shape = {"length": length, "head_width": q.shape[-1] // num_heads, "dtype": q.dtype}
        in_kernel = name != "dense" and not kernel_obstacle(name, **shape)
        if rate == 0.0:
            seed = None
        if seed is not None and name not in ("dense", *WITH_DROPOUT):
            raise ValueError(f"{name} has no dropout of attention weights")
        if not in_kernel and mesh.size == 1:
            options = {"num_heads": num_heads, "causal": causal, "rate": rate, "seed": seed, "site": site}
            return dense(q, k, v, segment_ids, **options)
        split = num_heads % tensor == 0
        heads = num_heads // tensor if split else num_heads

        def own(q, k, v, segment_ids, seed, site):
            options, first_head = {"num_heads": heads, "causal": causal}, 0
            if seed is not None:  # masks are those of the same rows and heads on one device
                row = jax.lax.axis_index(BATCH_SPEC[0]) * len(segment_ids)
                seed = seed._replace(first_row=seed.first_row + row)
                first_head = jax.lax.axis_index("tensor") * heads if split else 0
            if not in_kernel:
                options |= {"rate": rate, "seed": seed, "site": site, "first_head": first_head}
                return dense(q, k, v, segment_ids, **options)
            if seed is not None:
                drawn = weight_hashes(len(segment_ids), heads, length, seed, site, first_head)
                options |= {"hashes": drawn, "rate": rate}
            return KERNELS[name](q, k, v, segment_ids, **options)

        arrays, whole = PartitionSpec(*BATCH_SPEC, "tensor" if split else None), PartitionSpec()
        takes = (arrays, arrays, arrays, BATCH_SPEC, whole, whole)
        # Pallas kernels do not say over which axes their results vary, so that it cannot be checked.
        sharded = jax.shard_map(own, mesh=mesh, in_specs=takes, out_specs=arrays, check_vma=False)
        return sharded(q, k, v, segment_ids, seed, jnp.asarray(site))

    return attend


def _flash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    hashes: jax.Array | None = None,
    *,
    num_heads: int,
    causal: bool = False,
    rate: float = 0.0,
) -> jax.Array:
    """`dense` by our own kernels for one NVIDIA GPU, dropout included; see `jaxft.layers.attention.flash`."""
    # Here, for it is slow to import and needed on GPUs only.
    from jaxft.layers.attention.flash import flash_attention

    return flash_attention(q, k, v, segment_ids, hashes, num_heads=num_heads, causal=causal, rate=rate)


def weight_hashes(
    rows: int,
    num_heads: int,
    length: int,
    seed: DropoutSeed,
    site: int | jax.Array,
    first_head: int | jax.Array = 0,
) -> jax.Array:
    """uint32 `[R, H, L]`: what the dropout masks of each query's weights are drawn from, as `dense` does."""
    row, head, query = (
        jax.lax.broadcasted_iota(jnp.uint32, (rows, num_heads, length), axis) for axis in range(3)
    )
    first = jnp.asarray(first_head).astype(jnp.uint32)
    return vector_hashes(row, (first + head) * jnp.uint32(length) + query, seed, site)


KERNELS = {"splash": splash_attention, "flash": _flash}


KERNEL_OF = {"tpu": "splash", "gpu": "flash"}  # of attention, by platform


# The row's length from which it is worth while: flash's measured (H100, rows of 64 to 1,024), splash's a guess.
WORTH_FROM = {"splash": 512, "flash": 64}


def choose_attention(requested: str, length: int, sizes: Mapping[str, Any], platform: str) -> str:
    """Returns the name of the attention implementation that training and evaluation use.

    Args:
      requested: `config.model.attention`. "auto" means the platform's kernel for rows of `WORTH_FROM` slots or more
        that it can compute, else "dense".
      length: slots of a row.
      sizes: the backbone's, with `dtype` and `attention_dropout`.
      platform: "cpu", "gpu" or "tpu".

    Raises:
      UserError: the requested kernel cannot run.
    """
    auto = requested == "auto"
    name = KERNEL_OF.get(platform, "dense") if auto else requested
    if name == "dense" or (auto and length < WORTH_FROM[name]):
        return "dense"
    head_width = sizes["hidden_size"] // sizes["num_heads"]
    obstacle = kernel_obstacle(name, length=length, head_width=head_width, dtype=sizes["dtype"])
    if KERNEL_OF.get(platform) != name or (name == "flash" and not _gpu_takes_flash()):
        obstacle = f"cannot run on this {platform}"
    elif (rate := sizes["attention_dropout"]) and name not in WITH_DROPOUT:
        obstacle = f"has no dropout of attention weights, here {rate}; set config.model.dropout=0.0"
    if obstacle and not auto:
        raise UserError(f"config.model.attention={name!r} {obstacle}; 'dense' computes the same")
    return "dense" if obstacle else name


def _gpu_takes_flash() -> bool:
    """Whether this machine's GPU is NVIDIA's, of compute capability 8.0 (Ampere) or later; AMD's has a name there."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0
