"""The weight table's strictness: whatever does not fit is an error that names both sides."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.hub.weights import WeightRule, WeightTable, load_weights, save_weights

TABLE = WeightTable(
    rules=[
        WeightRule("layers/up/kernel", "net.{layer}.up.weight", "transpose"),
        WeightRule("layers/up/bias", "net.{layer}.up.bias"),
        WeightRule("head/kernel", "out.weight", "transpose"),
    ],
    canonical=[(r"^model\.", "")],
    ignore=[r"^out\.weight$", r"^old_head\."],
)
ABSTRACT = {
    "layers/up/kernel": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32),
    "layers/up/bias": jax.ShapeDtypeStruct((2, 4), jnp.float32),
    "head/kernel": jax.ShapeDtypeStruct((3, 5), jnp.float32),
}


def checkpoint() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"out.weight": (5, 3)}
    for layer in range(2):
        shapes |= {f"net.{layer}.up.weight": (4, 3), f"net.{layer}.up.bias": (4,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_both_directions_are_one_table():
    tensors = checkpoint()
    parameters, report = load_weights(TABLE, tensors, ABSTRACT)
    assert {path: value.shape for path, value in parameters.items()} == {
        p: a.shape for p, a in ABSTRACT.items()
    }
    np.testing.assert_array_equal(parameters["layers/up/kernel"][1], tensors["net.1.up.weight"].T)
    assert sorted(report.loaded) == sorted(tensors)
    back = save_weights(TABLE, {path: jnp.asarray(value) for path, value in parameters.items()})
    assert back.keys() == tensors.keys()
    assert all(back[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())


def test_parameters_are_placed_one_at_a_time():
    """A host need not hold all of a model."""
    alive = []  # weak references to the arrays that were placed

    def place(path, value):
        assert [reference() for reference in alive] == [None] * len(alive)
        alive.append(weakref.ref(value))
        return path

    class Lazy(dict):
        def __getitem__(self, name):
            return super().__getitem__(name).copy()

    parameters, _ = load_weights(TABLE, Lazy(checkpoint()), ABSTRACT, place=place)
    assert parameters == {path: path for path in ABSTRACT} and len(alive) == 3


def test_a_missing_tensor_names_both_sides_and_what_is_there():
    tensors = checkpoint()
    del tensors["net.1.up.bias"]
    message = (
        r"^here has no tensor 'net\.1\.up\.bias', .* parameter 'layers/up/bias' \(2, 4\).*'net\.0\.up\.bias'"
    )
    with pytest.raises(UserError, match=message):
        load_weights(TABLE, tensors, ABSTRACT, source="here")


@pytest.mark.parametrize("name", ["net.2.up.bias", "net.0.gate.weight"])
def test_an_extra_tensor_names_both_sides(name):
    tensors = checkpoint() | {name: np.zeros((4,), np.float32)}
    with pytest.raises(UserError, match=rf"has a tensor '{name}' \(4,\) .*no parameter for.*such as 'net\."):
        load_weights(TABLE, tensors, ABSTRACT)


def test_a_wrong_shape_names_both_sides_with_both_shapes():
    tensors = checkpoint() | {"net.1.up.weight": np.zeros((3, 4), np.float32)}
    message = (
        r"'net\.1\.up\.weight' has the shape \(3, 4\), but \(4, 3\) is expected "
        r"for the parameter 'layers/up/kernel' \(2, 3, 4\)"
    )
    with pytest.raises(UserError, match=message):
        load_weights(TABLE, tensors, ABSTRACT)


def test_two_tensors_for_one_parameter_are_refused():
    tensors = checkpoint() | {"model.out.weight": np.zeros((5, 3), np.float32)}
    with pytest.raises(UserError, match=r"has both 'out\.weight' and 'model\.out\.weight'"):
        load_weights(TABLE, tensors, ABSTRACT)


def test_a_parameter_without_a_rule_is_refused_in_both_directions():
    extra = {"backbone/new/kernel": jax.ShapeDtypeStruct((1,), jnp.float32)}
    with pytest.raises(UserError, match=r"no rule for the parameter 'backbone/new/kernel'"):
        load_weights(TABLE, checkpoint(), ABSTRACT | extra)
    with pytest.raises(UserError, match=r"no rule for the parameter 'backbone/new/kernel'"):
        save_weights(TABLE, {"backbone/new/kernel": np.zeros(1)})


def test_new_parameters_are_left_out_and_reported_and_a_useless_pattern_is_named():
    parameters, report = load_weights(
        TABLE, checkpoint() | {"old_head.weight": np.zeros(2)}, ABSTRACT, new=["^head/"]
    )
    assert "head/kernel" not in parameters and report.new == ["head/kernel"]
    assert sorted(report.ignored) == ["old_head.weight", "out.weight"]
    with pytest.raises(UserError, match=r"new parameters: the pattern '\^heads/' matches nothing"):
        load_weights(TABLE, checkpoint(), ABSTRACT, new=["^heads/"])


def test_chunks_of_one_tensor_are_split_and_joined():
    table = WeightTable(
        rules=[
            *(WeightRule(f"layers/{name}", "net.{layer}.joint", chunk=(i, 2)) for i, name in enumerate("ab")),
            *(WeightRule(name, "turned", "transpose", chunk=(i, 2)) for i, name in enumerate("cd")),
        ]
    )
    abstract = {f"layers/{name}": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32) for name in "ab"}
    abstract |= {name: jax.ShapeDtypeStruct((4, 3), jnp.float32) for name in "cd"}
    rng = np.random.default_rng(0)
    shapes = {"net.0.joint": (3, 8), "net.1.joint": (3, 8), "turned": (6, 4)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    parameters, report = load_weights(table, tensors, abstract)
    assert report.loaded == list(shapes)
    np.testing.assert_array_equal(parameters["layers/b"][1], tensors["net.1.joint"][:, 4:])
    np.testing.assert_array_equal(parameters["c"], tensors["turned"][:3].T)
    back = save_weights(table, dict(reversed(parameters.items())))
    assert back.keys() == tensors.keys()
    assert all(back[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())
    del parameters["d"]
    with pytest.raises(UserError, match=r"'turned' needs all its parts; only those numbered \[0\]"):
        save_weights(table, parameters)
