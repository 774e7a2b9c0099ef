"""A mesh splits parameters by the rules, and meshes and rows that do not fit the devices are refused."""

import jax
import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.parallel.mesh import (
    AXES,
    check_rows,
    describe_unsharded,
    make_mesh,
    parameter_spec,
    with_shardings,
)
from jaxft.training.settings import settings_from_config


def settings_of(**sizes):
    values = {f"mesh.{axis}": size for axis, size in sizes.items()}
    return settings_from_config({"task": "token_classification"} | values)


def test_impossible_meshes_are_refused():
    count = jax.device_count()
    with pytest.raises(UserError, match=rf"takes {count * 3} devices, found {count}; set one axis to -1"):
        make_mesh(settings_of(data=count * 3))
    with pytest.raises(UserError, match="at most one -1"):
        make_mesh(settings_of(data=-1, fsdp=-1))
    with pytest.raises(UserError, match="mesh.tensor=0: expected 1 to"):
        make_mesh(settings_of(tensor=0))


def test_rows_must_divide_over_the_devices():
    mesh = jax.sharding.AbstractMesh((2, 4, 1), AXES)
    check_rows(mesh, 16, "config.batch.rows")
    with pytest.raises(
        UserError, match="config.batch.rows=12: rows go over 8 devices .* use a multiple of 8"
    ):
        check_rows(mesh, 12, "config.batch.rows")


def test_axes_split_the_dimensions_that_they_divide():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), AXES)
    spec = jax.sharding.PartitionSpec
    for axes, shape, expected in (
        (("fsdp", "tensor"), (6, 8, 8), spec(None, "fsdp", "tensor")),  # a stack of kernels
        (("tensor",), (6, 8), spec(None, "tensor")),
        (("tensor", "fsdp"), (100, 8), spec("tensor", "fsdp")),
        (("tensor", "fsdp"), (101, 8), spec(None, "fsdp")),  # 101 is not divisible
        ((), (6, 8), spec(None, None)),
        (("fsdp", None), (8, 9), spec("fsdp", None)),
    ):
        assert parameter_spec(axes, shape, mesh) == expected, (axes, shape)


def test_a_state_is_split_like_its_parameters_and_sums_over_them_are_held_in_full():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), AXES)
    stack, table = "backbone/layers/up/kernel", "backbone/embeddings/word/embedding"
    shapes = {stack: (6, 8, 8), table: (100, 8)}
    axes = {stack: ("fsdp", "tensor"), table: ("tensor", "fsdp")}

    def abstract(shapes):
        return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}

    state = (
        abstract(shapes),
        abstract({stack: (6, 8), table: (8,)}),
        jax.ShapeDtypeStruct((), np.int32),
    )
    specs = jax.tree.map(
        lambda leaf: tuple(leaf.sharding.spec), with_shardings(state, axes, mesh, abstract(shapes))
    )
    assert specs == (
        {stack: (None, "fsdp", "tensor"), table: ("tensor", "fsdp")},
        {stack: (), table: ()},
        (),
    )


def test_what_a_mesh_does_not_divide_is_told():
    shapes = {
        "head/kernel": (8, 9),
        "backbone/embeddings/word/embedding": (101, 8),
        "backbone/norm/scale": (7,),
    }
    shapes = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    axes = dict(zip(shapes, (("fsdp", None), ("tensor", "fsdp"), ()), strict=True))
    mesh = jax.sharding.AbstractMesh((3, 2, 2), AXES)
    assert describe_unsharded(shapes, axes, mesh, 3) == (
        "not split along that axis of the mesh: tensor 2 doesn't divide 101 of backbone/embeddings/word/embedding; "
        "tensor 2 doesn't divide 3 heads, which each device has all of"
    )
    assert describe_unsharded(shapes, axes, jax.sharding.AbstractMesh((4, 1, 1), AXES), 3) is None
