"""The device mesh, and which rule of parameter paths says how an array is laid over it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxft.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # rows of a batch

# First match wins. Specs speak of an array's last axes; stacked layers have one more in front.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(query|key|value|up)/kernel$", ("fsdp", "tensor")),
    (r"(output|down)/kernel$", ("tensor", "fsdp")),
    (r"(query|key|value|up)/bias$", ("tensor",)),
    (r"word/embedding$", ("tensor", "fsdp")),
    (r"embedding$", (None, "fsdp")),
    (r"kernel$", ("fsdp", None)),
    (r".", ()),
)


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh`, at most one axis of which is -1 (whatever devices are left).

    devices: those to lay it over, default all there are.
    """
    sizes = [config.mesh[axis] for axis in AXES]
    devices = jax.devices() if devices is None else devices
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"config.mesh={dict(config.mesh)}: expected sizes of 1 or more and at most one -1")
    known = int(np.prod([size for size in sizes if size > 0]))
    if -1 in sizes and len(devices) % known:
        raise UserError(
            f"config.mesh={dict(config.mesh)}: {known} doesn't divide {len(devices)} devices, so that no size would "
            "do for -1; change the others"
        )
    if -1 not in sizes and known != len(devices):
        raise UserError(
            f"config.mesh={dict(config.mesh)} takes {known} devices, found {len(devices)}; "
            "set one axis to -1 to use them all"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return Mesh(arrange_devices(sizes, devices), AXES)


def arrange_devices(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices in an array of `sizes`: a TPU slice's with neighbours along its axes where wires are, others in order."""
    try:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError):  # slices that jax doesn't know how to cut
        return np.asarray(devices).reshape(sizes)


def describe_local_devices() -> dict[str, str]:
    """How many devices of which kind this process has, by what they are called in a message."""
    found = jax.local_devices()
    return {"devices": f"{len(found)} x {found[0].device_kind}"}


def check_rows(mesh: Mesh, rows: int, key: str) -> None:
    """Raises `UserError` where `rows` do not divide over the mesh's batch axes; `key` names the setting."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise UserError(
            f"{key}={rows}: rows go over {ways} devices (mesh data x fsdp); use a multiple of {ways}"
        )


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How parameter `name` is split; axes of the mesh that do not divide a dimension are left out."""
    return PartitionSpec(
        *(
            axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(_rule(name, shape), shape, strict=True)
        )
    )


def _rule(name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The axis that each dimension is split by, wherever that can be."""
    axes = next(axes for pattern, axes in RULES if re.search(pattern, name))
    axes = axes[-len(shape) :] if shape else ()
    return (None,) * (len(shape) - len(axes)) + tuple(axes)


def describe_unsharded(abstract: dict[str, jax.ShapeDtypeStruct], mesh: Mesh, num_heads: int) -> str | None:
    """Says what the mesh doesn't split as `RULES` and attention would, for it doesn't divide it; None where it does."""
    found = [
        f"{axis} {mesh.shape[axis]} doesn't divide {size:,} of {name}"
        for name, leaf in abstract.items()
        for axis, size in zip(_rule(name, leaf.shape), leaf.shape, strict=True)
        if axis and size % mesh.shape[axis]
    ]
    if num_heads % mesh.shape["tensor"]:
        found.append(
            f"tensor {mesh.shape['tensor']} doesn't divide {num_heads} heads, which each device has all of"
        )
    return f"not split along that axis of the mesh: {'; '.join(found)}" if found else None


def parameter_shardings(abstract: dict[str, jax.ShapeDtypeStruct], mesh: Mesh) -> dict[str, NamedSharding]:
    """Shardings of flat parameters {path: array} by `RULES`."""
    return {
        name: NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh)) for name, leaf in abstract.items()
    }


def with_shardings(abstract: Any, mesh: Mesh) -> Any:
    """An abstract train state with shardings: a leaf under a parameter's path goes as the parameter, others whole."""

    def place_leaf(path, leaf):
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        where = NamedSharding(
            mesh, parameter_spec(str(names[-1]), leaf.shape, mesh) if names else PartitionSpec()
        )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place_leaf, abstract)


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which of a batch's `rows` this process's devices hold, ascending: all of them where there is one process."""
    places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[place] for place in places]))


def place_batch(arrays: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A host batch on the devices, its rows split over the mesh; each process gives those that are `rows_here`."""
    with jax.transfer_guard_host_to_device("allow"):  # the training loop forbids those that are not meant
        return jax.make_array_from_process_local_data(NamedSharding(mesh, BATCH), arrays)


def put_array(value: np.ndarray, place: NamedSharding) -> jax.Array:
    """A host array that all processes have, in the parts that `place` gives their devices."""
    if place.is_fully_addressable:
        return jax.device_put(value, place)
    return jax.make_array_from_callback(value.shape, place, lambda part: value[part])


def replicate_locally(tree: Any, mesh: Mesh) -> Any:
    """`tree` of arrays whole on a device of this process; to be called in all of them."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)
