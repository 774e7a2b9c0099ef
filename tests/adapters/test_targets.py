"""The linear layers that get adapters: what a name that matches none is answered."""

import pytest

from jaxft.errors import UserError
from tests.adapters.test_adapters import network


@pytest.mark.parametrize("setting", ["target_modules", "feedforward_modules"])
def test_names_of_one_layer_answer_a_pattern_that_matches_nothing(setting):
    names = {"target_modules": ("query",), setting: ("query", "qeury")}
    with pytest.raises(UserError, match=f"adapter.{setting}: the pattern 'qeury' matches nothing; ") as error:
        network({"method": "ia3", **names})
    assert "bert.encoder.layer.0.attention.self.query, " in str(error.value)
    assert str(error.value).endswith("backbone/layers/mlp/down")
    assert "layer.1." not in str(error.value)


def test_the_first_pattern_of_a_module_counts_if_a_later_one_matches_it_too():
    plan = network({"method": "lora", "rank_pattern": (("query", 3), ("layers/attention/query", 4))}).adapters
    assert [target.ranks for target in plan.targets] == [(3, 3), (8, 8)]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("houlsby", {"attention.output.dense", "output.dense"}), ("pfeiffer", {"output.dense"})],
)
def test_bottlenecks_stand_where_their_papers_have_them(placement, expected):
    plan = network({"method": "bottleneck", "placement": placement}).adapters
    modules = {module for target in plan.targets for module in target.adapted}
    assert modules == {f"bert.encoder.layer.{layer}.{name}" for layer in (0, 1) for name in expected}


def test_an_adapter_of_another_base_is_named():
    settings = {"method": "lora", "target_modules": (r"(0|1)\.attn\.Wqkv",), "init_from": "mine"}
    with pytest.raises(
        UserError, match=r"init_from=mine: the model has other modules .* as config.model.checkpoint"
    ):
        network(settings)


def test_layers_that_are_trained_completely_get_no_adapters():
    settings = {
        "target_modules": ("query", "attention.output.dense"),
        "modules_to_save": ("layer.1.attention.output",),
    }
    plan = network({"method": "lora"} | settings).adapters
    assert {target.tensor.split(".")[-3]: target.ranks for target in plan.targets} == {
        "self": (8, 8),
        "output": (8, 0),
    }
    plan = network(
        {"method": "lora", "target_modules": ("query", "key"), "modules_to_save": ("key",)}
    ).adapters
    assert [target.tensor.split(".")[-2] for target in plan.targets] == ["query"]
