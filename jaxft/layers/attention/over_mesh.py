"""Makes a backbone's attention function: runs an attention implementation on the devices of a mesh."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxft.layers.attention.chunked import chunked_attention
from jaxft.layers.attention.dense import dense_attention, dense_in_blocks
from jaxft.layers.attention.flops import CHUNK
from jaxft.layers.attention.interface import (
    EVERYTHING,
    Attention,
    Feature,
    RelativeTerms,
    current_prefix,
    features_of,
)
from jaxft.layers.attention.limits import KERNELS, find_obstacle
from jaxft.layers.attention.prefix import attend_with_prefix
from jaxft.layers.attention.splash import splash_attention
from jaxft.parallel.mesh import BATCH_SPEC


class Blocks(Protocol):
    """Says where segments may cross blocks, as packing does; see `dense_in_blocks`. It is hashable."""

    @property
    def length(self) -> int:
        """The slots of a block."""

    @property
    def whole_row_period(self) -> int:
        """The period of rows that may hold segments that cross blocks."""


def make_attention(
    name: str, mesh: Mesh | None, blocks: Blocks | None = None, windowed_name: str | None = None
) -> Attention:
    """Returns an attention function over the devices of `mesh`.

    Each device computes its own rows. It computes its own heads if the mesh's `tensor` axis divides their number, else
    all heads. Dense attention computes what an implementation cannot, such as short rows of a length bucket.

    Args:
      name: the implementation, a key of `IMPLEMENTATIONS`.
      mesh: the devices; None for one device, which runs no kernels.
      blocks: where segments may cross blocks; None if that is unknown. Only dense attention uses them. It takes the
        place of chunked attention if blocks are no longer than chunks and no segment crosses them.
      windowed_name: the implementation for windows; None for the same.
    """
    if mesh is None and name in KERNELS:
        raise ValueError(f"{name} needs a mesh")

    def find_implementation(chosen: str) -> Callable[..., jax.Array]:
        if blocks is None or chosen in KERNELS:
            return IMPLEMENTATIONS[chosen]
        if chosen == "chunked" and (blocks.whole_row_period or blocks.length > CHUNK):
            return chunked_attention
        return functools.partial(
            dense_in_blocks, block_length=blocks.length, whole_row_period=blocks.whole_row_period
        )

    def attend(
        q, k, v, segment_ids, *, num_heads, visibility=EVERYTHING, relative=None, rate=0.0, seed=None, site=0
    ):
        if rate == 0.0:
            seed = None
        prefix = current_prefix()
        features = features_of(visibility, relative, seed, prefix)
        chosen = name if windowed_name is None or Feature.WINDOW not in features else windowed_name
        shape = {"length": segment_ids.shape[1], "head_width": q.shape[-1] // num_heads, "dtype": q.dtype}
        if find_obstacle(chosen, features=features, **shape):
            chosen = "dense"
        implementation, options = find_implementation(chosen), {"visibility": visibility, "rate": rate}
        if prefix is not None:
            implementation = functools.partial(attend_with_prefix, implementation)
        if mesh is None or (mesh.size == 1 and chosen not in KERNELS):
            options |= {"num_heads": num_heads, "relative": relative, "seed": seed, "site": site}
            if prefix is not None:
                options["prefix"] = prefix
            return implementation(q, k, v, segment_ids, **options)
        tensor = mesh.shape["tensor"]
        splits_heads = num_heads % tensor == 0
        device_heads = num_heads // tensor if splits_heads else num_heads

        def attend_on_device(q, k, v, segment_ids, relative, seed, site, prefix):
            first_head = 0
            more_options = options if prefix is None else options | {"prefix": prefix}
            if seed is not None:  # rows and heads get the same masks as on one device
                row = jax.lax.axis_index(BATCH_SPEC[0]) * len(segment_ids)
                seed = seed._replace(first_row=seed.first_row + row)
                first_head = jax.lax.axis_index("tensor") * device_heads if splits_heads else 0
            return implementation(
                q,
                k,
                v,
                segment_ids,
                num_heads=device_heads,
                relative=relative,
                seed=seed,
                site=site,
                first_head=first_head,
                **more_options,
            )

        heads = "tensor" if splits_heads else None
        activations, replicated = PartitionSpec(*BATCH_SPEC, heads), PartitionSpec()
        term_specs: list[Any] = [PartitionSpec(heads), PartitionSpec(None, heads), PartitionSpec(None, heads)]
        sharded = jax.shard_map(
            attend_on_device,
            mesh=mesh,
            in_specs=(
                *(activations,) * 3,
                *(BATCH_SPEC, RelativeTerms(*term_specs), replicated, replicated),
                PartitionSpec(None, heads),
            ),
            out_specs=activations,
            check_vma=False,  # Pallas kernels do not declare the axes over which their results vary
        )
        terms = RelativeTerms() if relative is None else relative
        return sharded(q, k, v, segment_ids, terms, seed, jnp.asarray(site), prefix)

    return attend


def _flash(*arrays: jax.Array, **options: Any) -> jax.Array:
    """Calls `flash_attention`. Imports its module late, because the import is slow and only GPUs need it."""
    from jaxft.layers.attention.flash import flash_attention

    return flash_attention(*arrays, **options)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "dense": dense_attention,
    "chunked": chunked_attention,
    "flash": _flash,
    "splash": splash_attention,
}
