"""Makes the device mesh and shards arrays over it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.config.sections import Settings
from jaxft.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_SPEC = PartitionSpec(("data", "fsdp"))  # splits the rows of a batch

# For each parameter by path, the axis of the mesh that splits each of its last dimensions, or None. A stack of layers
# has one more dimension in front.
ParameterAxes = Mapping[str, tuple[str | None, ...]]


def make_mesh(config: Settings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes the mesh of `config.mesh`.

    Args:
        config: the run's settings. At most one axis of `config.mesh` may be -1: it takes the remaining devices.
        devices: the mesh's devices; default `jax.devices()`.

    Raises:
        UserError: the sizes do not fit the number of devices.
    """
    sizes = [getattr(config.mesh, axis) for axis in AXES]
    devices = jax.devices() if devices is None else devices
    if sizes.count(-1) > 1:
        raise UserError(f"config.mesh={dataclasses.asdict(config.mesh)}: expected at most one -1")
    fixed_size = math.prod(size for size in sizes if size > 0)
    if -1 in sizes and len(devices) % fixed_size:
        raise UserError(
            f"config.mesh={dataclasses.asdict(config.mesh)}: {fixed_size} doesn't divide {len(devices)} devices, "
            "so that no size would do for -1; change the others"
        )
    if -1 not in sizes and fixed_size != len(devices):
        raise UserError(
            f"config.mesh={dataclasses.asdict(config.mesh)} takes {fixed_size} devices, found {len(devices)}; "
            "set one axis to -1 to use them all"
        )
    sizes = [len(devices) // fixed_size if size == -1 else size for size in sizes]
    return Mesh(arrange_devices(sizes, devices), AXES)


def arrange_devices(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices in an array of shape `sizes`.

    Neighbours in the array are neighbours in a TPU slice, as far as its links allow. Other devices keep their order.
    """
    try:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError):  # slices that jax cannot split
        return np.asarray(devices).reshape(sizes)


def describe_local_devices() -> dict[str, str]:
    """Returns the number and kind of this process's devices, as a fact for `processes.assert_same`."""
    devices = jax.local_devices()
    return {"devices": f"{len(devices)} x {devices[0].device_kind}"}


def check_rows(mesh: Mesh, rows: int, key: str) -> None:
    """Raises `UserError` if the mesh's batch axes do not divide `rows`; `key` names the setting."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise UserError(
            f"{key}={rows}: rows go over {ways} devices (mesh data x fsdp); use a multiple of {ways}"
        )


def parameter_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns how an array is split by `axes`. Those that do not divide their dimension are left out."""
    return PartitionSpec(
        *(
            axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(_pad_axes(axes, shape), shape, strict=True)
        )
    )


def _pad_axes(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """Returns an axis or None for each dimension of `shape`, of which `axes` describe the last ones."""
    return (None,) * (len(shape) - len(axes)) + axes


def describe_unsharded(
    abstract: Mapping[str, jax.ShapeDtypeStruct], axes: ParameterAxes, mesh: Mesh, num_heads: int
) -> str | None:
    """Returns a sentence about the dimensions that should be split but that the mesh does not divide; None if none.

    Args:
        abstract: the parameters by path.
        axes: the axes that split each of them.
        mesh: the mesh.
        num_heads: the number of attention heads, which the axis `tensor` splits.
    """
    reasons = [
        f"{axis} {mesh.shape[axis]} doesn't divide {size:,} of {name}"
        for name, leaf in abstract.items()
        for axis, size in zip(_pad_axes(axes[name], leaf.shape), leaf.shape, strict=True)
        if axis and size % mesh.shape[axis]
    ]
    if num_heads % mesh.shape["tensor"]:
        reasons.append(
            f"tensor {mesh.shape['tensor']} doesn't divide {num_heads} heads, which each device has all of"
        )
    return f"not split along that axis of the mesh: {'; '.join(reasons)}" if reasons else None


def with_shardings(
    abstract: Any,
    axes: ParameterAxes,
    mesh: Mesh,
    parameters: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> Any:
    """Returns abstract parameters, or an abstract train state, with shardings.

    A leaf under a parameter's path is split like the parameter if it has the parameter's shape. Every device holds each
    other leaf in full, such as a moment that is kept as sums over rows.

    Args:
        abstract: the parameters, or the state.
        axes: the axes that split each parameter.
        mesh: the mesh.
        parameters: the parameters by path, for a state.
    """

    def place_leaf(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        spec = PartitionSpec()
        if names and leaf.shape == (parameters or abstract)[names[-1]].shape:
            spec = parameter_spec(axes[names[-1]], leaf.shape, mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place_leaf, abstract)


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Returns which of a batch's `rows` this process's devices hold, ascending. With one process, these are all."""
    slices = NamedSharding(mesh, BATCH_SPEC).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[device_slice] for device_slice in slices]))


def place_batch(arrays: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places a host batch on the devices and splits its rows over the mesh. Each process passes its `local_rows`."""
    with jax.transfer_guard_host_to_device("allow"):  # the training loop forbids unintended transfers
        return jax.make_array_from_process_local_data(NamedSharding(mesh, BATCH_SPEC), arrays)


def put_array(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places a host array, which all processes have, on the devices with `sharding`."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def replicate_locally(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree` with each array in full on a device of this process. Call it in all processes."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    replicated = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), replicated)
