"""Matrix products with a kernel that is split over devices: gathered for each product, its gradient reduce-scattered.

Left to itself XLA gathers and scatters over all of a TPU slice by all-reduces, which send twice the bytes or more.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

ONE_STAGE = (
    8  # devices up to which one exchange among all is left as it is (seen of v5e:2x4; of 4x4 it was not)
)


def product(x: jax.Array, kernel: jax.Array, rows: NamedSharding | None, split: int) -> jax.Array:
    """`x [N, in] @ kernel [in, out]` -> `[N, out]`, all of x's dtype, in which parts of the kernel travel too.

    rows: how x lies over devices, if over several. split: the axis by which the kernel is split over the last of the
    axes of the mesh that rows are split over. The backward pass gathers the kernel again.
    """
    if (
        rows is None
        or x.shape[0] % _ways(rows, rows.spec[0])
        or kernel.shape[split] % _ways(rows, _axis(rows))
    ):
        return x @ kernel
    return _product(x, kernel, rows, split) if _ways(rows, _axis(rows)) > 1 else x @ kernel


def gather(part: jax.Array, axis: str, ways: int) -> jax.Array:
    """Under `shard_map`: the parts of all `ways` devices along `axis`, one after the other by their first dimension."""
    for groups in _stages(ways):
        part = jax.lax.all_gather(part, axis, axis=0, tiled=True, axis_index_groups=groups)
    return part


def scatter(whole: jax.Array, axis: str, ways: int) -> jax.Array:
    """Under `shard_map`: this device's part, by the first dimension, of the sum over the `ways` devices of `axis`."""
    for groups in reversed(_stages(ways)):
        whole = jax.lax.psum_scatter(whole, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return whole


def _stages(ways: int) -> list[list[list[int]] | None]:
    """Groups of devices that exchange parts, in the order of a gather: of many neighbours first, then their likes.

    A device sends as many bytes as in one exchange among all.
    """
    inner = next(n for n in range(int(ways**0.5), 0, -1) if ways % n == 0)
    if ways <= ONE_STAGE or inner == 1:
        return [None]
    neighbours = [list(range(first, first + inner)) for first in range(0, ways, inner)]
    return [neighbours, [list(likes) for likes in zip(*neighbours, strict=True)]]


def _axis(rows: NamedSharding) -> str:
    return rows.spec[0][-1]


def _ways(rows: NamedSharding, axes: str | tuple[str, ...]) -> int:
    ways = 1
    for axis in (axes,) if isinstance(axes, str) else axes:
        ways *= rows.mesh.shape[axis]
    return ways


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x, kernel, rows, split):
    return _on_each_device(lambda x, kernel: x @ _whole(kernel, rows, split), rows, split, "xk", "x")(
        x, kernel
    )


def _forward(x, kernel, rows, split):
    return _product(x, kernel, rows, split), (x, kernel)


def _backward(rows, split, residuals, gradient):
    axis, others = _axis(rows), rows.spec[0][:-1]
    on_cpu = rows.mesh.devices.flat[0].platform == "cpu"

    def own(x, kernel, gradient):
        d_x = gradient @ _whole(kernel, rows, split).T
        d_kernel = gradient.T @ x if split else x.T @ gradient
        if (
            on_cpu
        ):  # XLA adds up bfloat16 in float32 there, or, where an axis of the mesh is left to it, crashes
            d_kernel = d_kernel.astype(jnp.float32)
        d_kernel = jax.lax.psum(scatter(d_kernel, axis, _ways(rows, axis)), others).astype(kernel.dtype)
        return d_x, d_kernel.T if split else d_kernel

    return _on_each_device(own, rows, split, "xkx", "xk")(*residuals, gradient)


_product.defvjp(_forward, _backward)


def _whole(kernel: jax.Array, rows: NamedSharding, split: int) -> jax.Array:
    """Under `shard_map`: the kernel of which this device has a part, gathered by rows of it or of its transpose.

    Of columns TPU's compiler has scattered by summing all on each device.
    """
    ways = _ways(rows, _axis(rows))
    return gather(kernel.T, _axis(rows), ways).T if split else gather(kernel, _axis(rows), ways)


def _on_each_device(function, rows: NamedSharding, split: int, takes: str, gives: str):
    """`function` of each device's own: "x" stands for rows, "k" for a kernel. Other axes of the mesh are XLA's."""
    kernel = PartitionSpec(*[_axis(rows) if dimension == split else None for dimension in range(2)])
    specs = {"x": PartitionSpec(rows.spec[0]), "k": kernel}
    out = tuple(specs[kind] for kind in gives)
    return jax.shard_map(
        function,
        mesh=rows.mesh,
        in_specs=tuple(specs[kind] for kind in takes),
        out_specs=out if len(out) > 1 else out[0],
        axis_names=set(rows.spec[0]),
        check_vma=False,
    )
