"""Matrix products with kernels that are split over devices, for data in rows: FSDP, and tensor parallelism.

Kernels are gathered for each product and their gradients reduce-scattered (ZeRO, Rajbhandari et al. 2020, stage 3);
over the tensor axis activations are added up once for two products, a widening and a narrowing one (Megatron-LM,
Shoeybi et al. 2019). Left to itself XLA gathers and scatters over all of a TPU slice by all-reduces, which send twice
the bytes or more, and moves heads between the devices of a tensor axis.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# By platform, the devices up to which one exchange among all is left as it is (seen of v5e:2x4; of 4x4 it was not).
ONE_STAGE = {"tpu": 8}
PRODUCT = "product"  # what results are called in policies of rematerialisation, which don't see how they are computed


class ActivationLayout(NamedTuple):
    """How activations `[N, D]` lie over devices, and how kernels are gathered for products with them.

    sharding: of activations. It splits N over some axes of the mesh, kernels are split over the last of these too.
    again: whether the backward pass is kept from sharing what was gathered for the forward pass, as XLA would have it
    where both are in one computation: whole kernels would be held from one to the other. (Not on CPU, where XLA can't
    be kept from it.)
    """

    sharding: NamedSharding
    regathers: bool


class _Layout(NamedTuple):
    """How x `[N, in]`, kernels `[in, out]` and products `[N, out]` lie over devices."""

    mesh: Mesh
    rows: tuple[str, ...]  # axes of the mesh that x's rows are split over
    fsdp: str | None  # the one of them that kernels' dimension `split` is split over, if it is
    tensor: str | None  # the axis that kernels' other dimension is split over, if it is
    split: int
    again: bool

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


def sharded_matmul(
    x: jax.Array, kernels: Sequence[jax.Array], layout: ActivationLayout | None, fsdp_dimension: int
) -> list[jax.Array]:
    """`x [N, in] @ kernel [in, out]` -> `[N, out]` for each kernel, all of one shape and of x's dtype.

    rows: how x lies over devices, if over several; N divides over them. split: the dimension by which kernels are
    split for FSDP. The other one is split over the tensor axis: with 0 the products' columns come out split over it,
    with 1 those of x are. Where an axis doesn't divide a dimension it isn't split. What devices send is in x's dtype.
    """
    layout = None if layout is None else _layout(kernels[0].shape, layout, fsdp_dimension)
    if layout is None:
        return [x @ kernel for kernel in kernels]
    if x.ndim != 2:
        raise ValueError(f"x {x.shape}: expected [N, in] where it is split over devices")
    return [checkpoint_name(product, PRODUCT) for product in _products(x, list(kernels), layout)]


def gather_shards(part: jax.Array, axis: str, mesh: Mesh) -> jax.Array:
    """Under `shard_map`: the parts of all devices along `axis`, one after the other by their first dimension."""
    for groups in _stages(axis, mesh):
        part = jax.lax.all_gather(part, axis, axis=0, tiled=True, axis_index_groups=groups)
    return part


def scatter_sum(whole: jax.Array, axis: str, mesh: Mesh) -> jax.Array:
    """Under `shard_map`: this device's part, by the first dimension, of the sum over the devices along `axis`."""
    for groups in reversed(_stages(axis, mesh)):
        whole = jax.lax.psum_scatter(whole, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return whole


def _stages(axis: str, mesh: Mesh) -> list[list[list[int]] | None]:
    """Groups of devices that exchange parts, in the order of a gather: of many neighbours first, then their likes.

    A device sends as many bytes as in one exchange among all.
    """
    ways, platform = mesh.shape[axis], mesh.devices.flat[0].platform
    inner = next(n for n in range(int(ways**0.5), 0, -1) if ways % n == 0)
    if ways <= ONE_STAGE.get(platform, ways) or inner == 1:
        return [None]
    neighbours = [list(range(first, first + inner)) for first in range(0, ways, inner)]
    return [neighbours, [list(likes) for likes in zip(*neighbours, strict=True)]]


def _layout(kernel: tuple[int, ...], rows: ActivationLayout, split: int) -> _Layout | None:
    """Of kernels of that shape; None where they aren't split."""
    mesh, axes = rows.sharding.mesh, rows.sharding.spec[0]
    [other] = set(mesh.axis_names) - set(axes)

    def usable(axis: str, size: int) -> str | None:
        return axis if mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None

    fsdp, tensor = usable(axes[-1], kernel[split]), usable(other, kernel[1 - split])
    layout = _Layout(mesh, axes, fsdp, tensor, split, rows.regathers)
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
    axis = layout.fsdp
    summed = [name for name in layout.rows if name != axis]

    def own(x, kernels, gradients):
        if layout.again:
            kernels = jax.lax.optimization_barrier(kernels)
        d_x = sum(gradient @ _whole(k, layout).T for k, gradient in zip(kernels, gradients, strict=True))
        if layout.tensor and not layout.split:
            d_x = jax.lax.psum(d_x, layout.tensor)
        return d_x, [d_kernel(x, gradient) for gradient in gradients]

    def d_kernel(x, gradient):
        whole = gradient.T @ x if layout.split else x.T @ gradient
        part = jax.lax.psum(scatter_sum(whole, axis, layout.mesh) if axis else whole, summed)
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
    whole = gather_shards(parts, layout.fsdp, layout.mesh)
    return whole.T if layout.split else whole


def _on_each_device(function: Callable, layout: _Layout, takes, gives) -> Callable:
    # That sums are the same on all devices of an axis cannot be told from scatters.
    return jax.shard_map(function, mesh=layout.mesh, in_specs=takes, out_specs=gives, check_vma=False)
