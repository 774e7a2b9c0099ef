"""Makes a backbone's attention function: runs an attention implementation on the devices of a mesh."""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxft.layers.attention.dense import dense_attention, dense_in_blocks
from jaxft.layers.attention.limits import KERNELS_WITH_DROPOUT, find_obstacle
from jaxft.layers.attention.splash import splash_attention
from jaxft.layers.dropout import DropoutSeed, hash_attention_weights
from jaxft.parallel.mesh import BATCH_SPEC


class Attention(Protocol):
    """A function that computes what `dense_attention` does."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        segment_ids: jax.Array,
        *,
        num_heads: int,
        causal: bool = False,
        relative_bias: jax.Array | None = None,
        rate: float = 0.0,
        seed: DropoutSeed | None = None,
        site: int | jax.Array = 0,
    ) -> jax.Array:
        """Computes attention within segments; see `dense_attention`."""


class Blocks(Protocol):
    """Says where segments may cross blocks, as packing does; see `dense_in_blocks`. It is hashable."""

    @property
    def length(self) -> int:
        """The slots of a block."""

    @property
    def whole_row_period(self) -> int:
        """The period of rows that may hold segments that cross blocks."""


def make_attention(name: str, mesh: Mesh | None, blocks: Blocks | None = None) -> Attention:
    """Returns an attention function over the devices of `mesh`.

    Each device computes its own rows. It computes its own heads if the mesh's `tensor` axis divides their number, else
    all heads. Dense attention computes what a kernel cannot, such as short rows of a length bucket.

    Args:
      name: "dense", or a kernel of `KERNELS`.
      mesh: the devices; None for one device, which computes dense attention only.
      blocks: where segments may cross blocks; None if that is unknown. Only dense attention uses them.
    """
    dense: Callable[..., jax.Array] = dense_attention
    if blocks is not None:
        dense = functools.partial(
            dense_in_blocks, block_length=blocks.length, whole_row_period=blocks.whole_row_period
        )
    if mesh is None:
        if name != "dense":
            raise ValueError(f"{name} needs a mesh")
        return dense
    tensor = mesh.shape["tensor"]

    def attend(
        q, k, v, segment_ids, *, num_heads, causal=False, relative_bias=None, rate=0.0, seed=None, site=0
    ):
        length, has_relative_bias = segment_ids.shape[1], relative_bias is not None
        shape = {"length": length, "head_width": q.shape[-1] // num_heads, "dtype": q.dtype}
        runs_kernel = name != "dense" and not find_obstacle(
            name, **shape, has_relative_bias=has_relative_bias
        )
        if rate == 0.0:
            seed = None
        if seed is not None and name not in ("dense", *KERNELS_WITH_DROPOUT):
            raise ValueError(f"{name} has no dropout of attention weights")
        if not runs_kernel and mesh.size == 1:
            options = {"num_heads": num_heads, "causal": causal, "relative_bias": relative_bias}
            return dense(q, k, v, segment_ids, **options, rate=rate, seed=seed, site=site)
        splits_heads = num_heads % tensor == 0
        device_heads = num_heads // tensor if splits_heads else num_heads

        def attend_on_device(q, k, v, segment_ids, relative_bias, seed, site):
            options, first_head = {"num_heads": device_heads, "causal": causal}, 0
            if seed is not None:  # rows and heads get the same masks as on one device
                row = jax.lax.axis_index(BATCH_SPEC[0]) * len(segment_ids)
                seed = seed._replace(first_row=seed.first_row + row)
                first_head = jax.lax.axis_index("tensor") * device_heads if splits_heads else 0
            if not runs_kernel:
                options |= {"rate": rate, "seed": seed, "site": site, "first_head": first_head}
                return dense(q, k, v, segment_ids, relative_bias=relative_bias, **options)
            if seed is not None:
                hashes = hash_attention_weights(
                    len(segment_ids), device_heads, length, seed, site, first_head
                )
                options |= {"hashes": hashes, "rate": rate}
            return KERNELS[name](q, k, v, segment_ids, **options)

        heads = "tensor" if splits_heads else None
        activations, replicated = PartitionSpec(*BATCH_SPEC, heads), PartitionSpec()
        sharded = jax.shard_map(
            attend_on_device,
            mesh=mesh,
            in_specs=(activations,) * 3 + (BATCH_SPEC, PartitionSpec(heads), replicated, replicated),
            out_specs=activations,
            check_vma=False,  # Pallas kernels do not declare the axes over which their results vary
        )
        return sharded(q, k, v, segment_ids, relative_bias, seed, jnp.asarray(site))

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
    """Calls `flash_attention`. Imports its module late, because the import is slow and only GPUs need it."""
    from jaxft.layers.attention.flash import flash_attention

    return flash_attention(q, k, v, segment_ids, hashes, num_heads=num_heads, causal=causal, rate=rate)


KERNELS: dict[str, Callable[..., jax.Array]] = {"splash": splash_attention, "flash": _flash}
