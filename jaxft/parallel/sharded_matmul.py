"""Multiplies rows of activations with kernels that are split over devices: FSDP and tensor parallelism.

Kernels are gathered for each product, and their gradients are reduce-scattered (ZeRO, Rajbhandari et al. 2020, stage
3). Over the tensor axis, activations are summed once for two products, a widening and a narrowing one (Megatron-LM,
Shoeybi et al. 2019). By default XLA gathers and scatters over an entire TPU slice by all-reduces, which send twice the
bytes or more, and moves heads between the devices of a tensor axis.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The largest number of devices, by platform, for which XLA does not change an exchange among all of them. On v5e:2x4 it
# did not change it, on 4x4 it did.
ONE_STAGE = {"tpu": 8}
# The name of products for remat policies, which do not see how results are computed.
PRODUCT = "product"


class ActivationLayout(NamedTuple):
    """The layout of activations `[N, D]` over devices, and how kernels are gathered for products with them.

    Attributes:
      sharding: the sharding of activations. It splits N over some axes of the mesh. The last of these also splits
        kernels.
      regathers: whether the backward pass gathers kernels again. If not, and both passes are in one computation, XLA
        holds entire kernels from the forward to the backward pass. (On CPU nothing can prevent that.)
    """

    sharding: NamedSharding
    regathers: bool


class CompressedKernel(NamedTuple):
    """A kernel that is a constant, and so has no gradient, in fewer bytes.

    In x's dtype it exists only while it is multiplied with x, once for each pass.

    Attributes:
      values: bfloat16 or int8 `[in, out]`.
      scale: float32 `[out]`, by which columns are multiplied; None for 1.
    """

    values: jax.Array
    scale: jax.Array | None = None


Kernel: TypeAlias = jax.Array | CompressedKernel


class _ProductLayout(NamedTuple):
    """The layout of x `[N, in]`, kernels `[in, out]` and products `[N, out]` over devices.

    Attributes:
      mesh: the devices.
      rows: the axes of the mesh that split x's rows.
      fsdp: the one of these axes that splits the kernels' `fsdp_dimension`, or None.
      tensor: the axis that splits the kernels' other dimension, or None.
      fsdp_dimension: 0 or 1.
      regathers: as in `ActivationLayout`.
    """

    mesh: Mesh
    rows: tuple[str, ...]
    fsdp: str | None
    tensor: str | None
    fsdp_dimension: int
    regathers: bool

    @property
    def kernel(self) -> PartitionSpec:
        """Returns the partition of kernels."""
        if self.fsdp_dimension == 1:
            return PartitionSpec(self.tensor, self.fsdp)
        return PartitionSpec(self.fsdp, self.tensor)

    def partition(self, kernel: Kernel) -> Any:
        """Returns the partition of a kernel, and of its scale."""
        if not isinstance(kernel, CompressedKernel):
            return self.kernel
        columns = self.tensor if self.fsdp_dimension == 0 else None  # of the gathered kernel
        specs: Any = self.kernel, None if kernel.scale is None else PartitionSpec(columns)
        return CompressedKernel(*specs)

    @property
    def x(self) -> PartitionSpec:
        """Returns the partition of x."""
        return PartitionSpec(self.rows, self.tensor if self.fsdp_dimension == 1 else None)

    @property
    def product(self) -> PartitionSpec:
        """Returns the partition of products."""
        return PartitionSpec(self.rows, self.tensor if self.fsdp_dimension == 0 else None)


def sharded_matmul(
    x: jax.Array, kernels: Sequence[Kernel], layout: ActivationLayout | None, fsdp_dimension: int
) -> list[jax.Array]:
    """Returns `x @ kernel` for each kernel.

    Devices send numbers in the dtypes of x and of the kernels. An axis of the mesh that does not divide a dimension
    does not split it.

    Args:
      x: `[N, in]`, or `[..., in]` if nothing is split.
      kernels: `[in, out]`, all of the same shape, in x's dtype or all of them compressed.
      layout: the layout of x over devices; None on one device. Devices that do not divide N do not split x.
      fsdp_dimension: the dimension of kernels that FSDP splits. The tensor axis splits the other dimension, and with it
        the columns of the products (for an fsdp_dimension of 0) or of x (for 1).

    Returns:
      `[N, out]` for each kernel, in x's dtype.
    """
    first = kernels[0]
    shape = first.values.shape if isinstance(first, CompressedKernel) else first.shape
    product_layout = None if layout is None else _find_layout(shape, layout, fsdp_dimension)
    if product_layout is None:
        return [_multiply_on_one_device(x, kernel) for kernel in kernels]
    if x.ndim != 2:
        raise ValueError(f"x {x.shape}: expected [N, in] where it is split over devices")
    if len(x) % math.prod(product_layout.mesh.shape[axis] for axis in product_layout.rows):
        # Of rows that all devices share; XLA splits the products.
        return [_multiply_on_one_device(x, kernel) for kernel in kernels]
    products = _multiply(x, list(kernels), product_layout)
    return [checkpoint_name(product, PRODUCT) for product in products]


def _multiply_on_one_device(x: jax.Array, kernel: Kernel) -> jax.Array:
    """Returns `x @ kernel`."""
    return _multiply_compressed(x, kernel) if isinstance(kernel, CompressedKernel) else x @ kernel


@jax.custom_vjp
def _multiply_compressed(x, kernel):
    """Multiplies x with a compressed kernel on one device."""
    return x @ _expand(kernel, x)


_multiply_compressed.defvjp(
    lambda x, kernel: (_multiply_compressed(x, kernel), kernel),
    lambda kernel, gradient: (gradient @ _expand(kernel, gradient).T, None),
)


def _expand(kernel: Kernel, x: jax.Array) -> jax.Array:
    """Returns a kernel in the dtype of x, which it is about to be multiplied with.

    If it is compressed, the result depends on x. If it did not, XLA would expand all kernels at the start of a step
    whose layers are unrolled, and hold them until the backward pass.
    """
    if not isinstance(kernel, CompressedKernel):
        return kernel
    values, scale = kernel
    if values.dtype == x.dtype:
        return values
    values = jax.lax.platform_dependent(values, x, cpu=_wait_by_value, default=_wait_by_barrier)
    if scale is not None:  # products of scaled kernels need no second array, as scaled products would
        values = values.astype(jnp.promote_types(x.dtype, scale.dtype)) * scale
    return values.astype(x.dtype)


def _wait_by_barrier(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the kernel, which no device reads before it has x."""
    return jax.lax.optimization_barrier((kernel, x))[0]


def _wait_by_value(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the kernel, or zeros if x begins with NaN. XLA:CPU has no barriers."""
    return jnp.where(jnp.isnan(x[(0,) * x.ndim]), jnp.zeros((), kernel.dtype), kernel)


def gather_shards(shard: jax.Array, axis: str, mesh: Mesh) -> jax.Array:
    """Concatenates, under `shard_map`, the shards of all devices along `axis` in their first dimension."""
    for groups in _exchange_stages(axis, mesh):
        shard = jax.lax.all_gather(shard, axis, axis=0, tiled=True, axis_index_groups=groups)
    return shard


def scatter_sum(array: jax.Array, axis: str, mesh: Mesh) -> jax.Array:
    """Sums, under `shard_map`, arrays over the devices along `axis`, and returns this device's shard of the sum.

    Shards split the first dimension.
    """
    for groups in reversed(_exchange_stages(axis, mesh)):
        array = jax.lax.psum_scatter(array, axis, scatter_dimension=0, tiled=True, axis_index_groups=groups)
    return array


def _exchange_stages(axis: str, mesh: Mesh) -> list[list[list[int]] | None]:
    """Returns the groups of devices that exchange shards in each stage of a gather; None for all devices.

    In the first of two stages neighbours exchange shards. In the second, devices that have the same place among their
    neighbours do. A device sends as many bytes as in one exchange among all devices.
    """
    ways, platform = mesh.shape[axis], mesh.devices.flat[0].platform
    inner = next(n for n in range(int(ways**0.5), 0, -1) if ways % n == 0)
    if ways <= ONE_STAGE.get(platform, ways) or inner == 1:
        return [None]
    neighbours = [list(range(first, first + inner)) for first in range(0, ways, inner)]
    return [neighbours, [list(group) for group in zip(*neighbours, strict=True)]]


def _find_layout(
    kernel_shape: tuple[int, ...], layout: ActivationLayout, fsdp_dimension: int
) -> _ProductLayout | None:
    """Returns the layout of products with kernels of `kernel_shape`; None if nothing splits the kernels."""
    mesh, axes = layout.sharding.mesh, layout.sharding.spec[0]
    assert isinstance(mesh, Mesh)  # not an abstract one
    [other] = set(mesh.axis_names) - set(axes)

    def splits(axis: str, dimension: int) -> bool:
        return mesh.shape[axis] > 1 and kernel_shape[dimension] % mesh.shape[axis] == 0

    fsdp = axes[-1] if splits(axes[-1], fsdp_dimension) else None
    tensor = other if splits(other, 1 - fsdp_dimension) else None
    if fsdp is None and tensor is None:
        return None
    return _ProductLayout(mesh, axes, fsdp, tensor, fsdp_dimension, layout.regathers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(x, kernels, layout):
    """Multiplies x with each kernel. A hand-written gradient decides what devices send; else XLA would."""

    def multiply_on_device(x, kernels):
        products = [x @ _expand(_gather_kernel(kernel, layout), x) for kernel in kernels]
        if layout.tensor and layout.fsdp_dimension == 1:
            return jax.lax.psum(products, layout.tensor)
        return products

    in_specs = layout.x, [layout.partition(kernel) for kernel in kernels]
    return _on_each_device(multiply_on_device, layout, in_specs, layout.product)(x, kernels)


def _multiply_forward(x, kernels, layout):
    return _multiply(x, kernels, layout), (None if isinstance(kernels[0], CompressedKernel) else x, kernels)


def _multiply_backward(layout, residuals, gradients):
    # The axes of the mesh over which a kernel's gradient is summed, but not scattered.
    sum_axes = [name for name in layout.rows if name != layout.fsdp]

    def differentiate_on_device(x, kernels, gradients):
        if layout.regathers:
            kernels = jax.lax.optimization_barrier(kernels)
        pairs = zip(kernels, gradients, strict=True)
        d_x = sum(
            gradient @ _expand(_gather_kernel(kernel, layout), gradient).T for kernel, gradient in pairs
        )
        if layout.tensor and layout.fsdp_dimension == 0:
            d_x = jax.lax.psum(d_x, layout.tensor)
        return d_x, None if x is None else [differentiate_kernel(x, gradient) for gradient in gradients]

    def differentiate_kernel(x, gradient):
        # For kernels that are split by columns the transpose is computed and scattered by rows; see `_gather_kernel`.
        is_transposed = layout.fsdp_dimension == 1
        d_kernel = gradient.T @ x if is_transposed else x.T @ gradient
        if layout.fsdp:
            d_kernel = scatter_sum(d_kernel, layout.fsdp, layout.mesh)
        d_kernel = jax.lax.psum(d_kernel, sum_axes)
        return d_kernel.T if is_transposed else d_kernel

    in_specs = layout.x, [layout.partition(kernel) for kernel in residuals[1]], layout.product
    out_specs = layout.x, layout.kernel
    return _on_each_device(differentiate_on_device, layout, in_specs, out_specs)(*residuals, gradients)


_multiply.defvjp(_multiply_forward, _multiply_backward)


def _gather_kernel(kernel: Kernel, layout: _ProductLayout) -> Kernel:
    """Gathers, under `shard_map`, a kernel of which this device has a shard.

    It gathers rows of the kernel or of its transpose. To scatter columns, TPU's compiler summed everything on each
    device.
    """
    if layout.fsdp is None:
        return kernel
    if isinstance(kernel, CompressedKernel):
        return kernel._replace(values=cast(jax.Array, _gather_kernel(kernel.values, layout)))
    if layout.fsdp_dimension == 1:
        return gather_shards(kernel.T, layout.fsdp, layout.mesh).T
    return gather_shards(kernel, layout.fsdp, layout.mesh)


def _on_each_device(
    function: Callable[..., Any], layout: _ProductLayout, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Returns `function` under `shard_map`."""
    # The check cannot distinguish scatters from sums that are the same on all devices of an axis.
    return jax.shard_map(function, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
