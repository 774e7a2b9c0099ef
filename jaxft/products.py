"""Matrix products with kernels that are split over devices, for data in rows: FSDP, and tensor parallelism.

Kernels are gathered for each product and their gradients reduce-scattered (ZeRO, Rajbhandari et al. 2020, stage 3);
over the tensor axis activations are added up once for two products, a widening and a narrowing one (Megatron-LM,
Shoeybi et al. 2019). Left to itself XLA gathers and scatters over all of a TPU slice by all-reduces, which send twice
the bytes or more, and moves heads between the devices of a tensor axis.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ONE_STAGE = (
    8  # devices up to which one exchange among all is left as it is (seen of v5e:2x4; of 4x4 it was not)
)


class _Layout(NamedTuple):
    """How x `[N, in]`, kernels `[in, out]` and products `[N, out]` lie over devices."""

    mesh: Mesh
    rows: tuple[str, ...]  # axes of the mesh that x's rows are split over
    fsdp: str | None  # the one of them that kernels' dimension `split` is split over, if it is
    tensor: str | None  # the axis that kernels' other dimension is split over, if it is
    split: int

    @property
    def kernel(self) -> PartitionSpec:
        axes = (self.fsdp, self.tensor)
        return PartitionSpec(*(reversed(axes) if self.split else axes))

    @property
    def x(self) -> PartitionSpec:
        return PartitionSpec(self.rows, self.tensor if self.split else None)

    @property
    def product(self) -> PartitionSpec:
        return PartitionSpec(self.rows, None if self.split else self.tensor)


def products(
    x: jax.Array, kernels: Sequence[jax.Array], rows: NamedSharding | None, split: int
) -> list[jax.Array]:
    """`x [N, in] @ kernel [in, out]` -> `[N, out]` for each kernel, all of one shape and of x's dtype.

    rows: how x lies over devices, if over several. split: the dimension by which kernels are split over the last of
    the axes that rows are split over; the other one is split over the mesh's remaining axis: 0 of kernels that lead
    into what is split over that, 1 of those that lead out of it. Where axes don't divide a dimension it isn't split.
    What devices send is in x's dtype. The backward pass gathers the kernels again.
    """
    layout = None if rows is None else _layout(x.shape[0], kernels[0].shape, rows, split)
    if layout is None:
        return [x @ kernel for kernel in kernels]
    return _products(x, list(kernels), layout)


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


def _layout(count: int, kernel: tuple[int, ...], rows: NamedSharding, split: int) -> _Layout | None:
    """Of `count` rows and kernels of that shape; None where rows don't divide or no kernel is split."""
    mesh, axes = rows.mesh, rows.spec[0]
    if count % math.prod(mesh.shape[axis] for axis in axes):
        return None
    [other] = set(mesh.axis_names) - set(axes)

    def usable(axis: str, size: int) -> str | None:
        return axis if mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None

    layout = _Layout(mesh, axes, usable(axes[-1], kernel[split]), usable(other, kernel[1 - split]), split)
    return layout if layout.fsdp or layout.tensor else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(x, kernels, layout):
    def own(x, kernels):
        found = [x @ _whole(kernel, layout) for kernel in kernels]
        return jax.lax.psum(found, layout.tensor) if layout.split and layout.tensor else found

    takes, gives = (layout.x, layout.kernel), layout.product
    return _on_each_device(own, layout, takes, gives)(x, kernels)


def _forward(x, kernels, layout):
    return _products(x, kernels, layout), (x, kernels)


def _backward(layout, residuals, gradients):
    mesh, axis = layout.mesh, layout.fsdp
    summed = [name for name in layout.rows if name != axis]

    def own(x, kernels, gradients):
        d_x = sum(gradient @ _whole(k, layout).T for k, gradient in zip(kernels, gradients, strict=True))
        if layout.tensor and not layout.split:
            d_x = jax.lax.psum(d_x, layout.tensor)
        return d_x, [d_kernel(x, gradient) for gradient in gradients]

    def d_kernel(x, gradient):
        whole = gradient.T @ x if layout.split else x.T @ gradient
        part = jax.lax.psum(scatter(whole, axis, mesh.shape[axis]) if axis else whole, summed)
        return part.T if layout.split else part

    takes = layout.x, layout.kernel, layout.product
    return _on_each_device(own, layout, takes, (layout.x, layout.kernel))(*residuals, gradients)


_products.defvjp(_forward, _backward)


def _whole(kernel: jax.Array, layout: _Layout) -> jax.Array:
    """Under `shard_map`: a kernel of which this device has a part, gathered by rows of it or of its transpose.

    Of columns TPU's compiler has scattered by summing all on each device.
    """
    if layout.fsdp is None:
        return kernel
    parts = kernel.T if layout.split else kernel
    whole = gather(parts, layout.fsdp, layout.mesh.shape[layout.fsdp])
    return whole.T if layout.split else whole


def _on_each_device(function: Callable, layout: _Layout, takes, gives) -> Callable:
    # That sums are the same on all devices of an axis cannot be told from scatters.
    return jax.shard_map(function, mesh=layout.mesh, in_specs=takes, out_specs=gives, check_vma=False)
