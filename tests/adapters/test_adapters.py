"""Adapters in the train step: what is trained, what a checkpoint holds, and that packing changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.adapters.plan import is_adapter, merge_parameters, plan_adapters
from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.registry import FAMILIES
from jaxft.parallel.mesh import make_mesh
from jaxft.training import step
from jaxft.training.network import make_network
from tests.training import test_step

GPT2_SHAPE = GPT2Config(
    vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=16
)
# A run with each method, and with what is special about it.
SETTINGS = {
    "lora": {"method": "lora", "r": 2},
    "dora": {"method": "lora", "r": 2, "use_dora": True, "layers_to_transform": (1,)},
    "pissa": {"method": "lora", "r": 2, "init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"method": "lora", "r": 2, "init_lora_weights": "olora", "use_dora": True},
    "ranks": {
        "method": "lora",
        "r": 2,
        "target_modules": ("all-linear",),
        "rank_pattern": (
            ("layers/attention/output", 3),
            (r"h\.0\.mlp\.c_fc|layer\.0\.intermediate\.dense", 1),
        ),
        "alpha_pattern": (("attention/value", 16),),
    },
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "r": 3},
}


def network(settings: dict, name: str = "bert", **runtime):
    """The network of a token classifier with adapters."""
    family, shape = FAMILIES[name], {"bert": test_step.SHAPE, "gpt2": GPT2_SHAPE}[name]
    adapter = Adapter(**settings)
    adapter.check()
    plan = None
    if adapter.is_used:
        table = family.table_with_head(HeadKind.TOKEN)
        plan = functools.partial(plan_adapters, adapter, family.adapter_targets, table)
    config = test_step.config_with()
    return make_network(test_step.network().task, shape, Runtime(**runtime), make_mesh(config), plan)


def config_with(settings: dict, **values):
    return test_step.config_with(**{f"adapter.{key}": value for key, value in settings.items()}, **values)


@functools.cache
def base_parameters(name: str):
    """New parameters of a model without adapters."""
    net = network({}, name)
    if name == "bert":
        return net, test_step.parameters_of(net)
    return net, jax.jit(net.new_parameters)(jnp.uint32(0))


def first_parameters(net):
    """Those of the model without adapters, and first ones of adapters."""
    plain, parameters = base_parameters(net.model_config.model_type)
    model = nnx.merge(plain.graphdef, parameter_paths.unflatten(parameters))
    net.adapters.attach(model, nnx.Rngs(params=0))
    net.adapters.initialize(model)
    return parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))


def trained_parameters(net, seed: int = 0):
    """First parameters, of which adapters have moved. What adapters of a lower rank lack has stayed 0."""
    rng = np.random.default_rng(seed)
    paths = [(path, target) for target in net.adapters.targets for path in target.linears]
    masks = {f"{path}/adapter/b": target.make_mask().swapaxes(-1, -2) for path, target in paths}
    moved = {}
    for name, value in first_parameters(net).items():
        if is_adapter(name) and net.adapters.trains(name, net.roles[name]):
            if name.endswith(("/b", "/up", "/up_bias")):
                value = masks.get(name, 1.0) * rng.normal(size=value.shape)
            else:
                value = value * (1 + 0.1 * rng.normal(size=value.shape))
        moved[name] = jnp.asarray(value, jnp.float32)
    return moved


@functools.partial(jax.jit, static_argnums=0)
def _logits(net_and_graph, parameters, arrays):
    task, graphdef = net_and_graph
    return task.logits(step.merge_model(graphdef, parameters), arrays)


def logits(net, parameters, arrays):
    return _logits((net.task, net.graphdef), parameters, arrays)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_new_adapters_change_nothing_and_merged_ones_compute_the_same(settings, name):
    """Also where some layers have none, and in the fused weight of GPT-2."""
    net, (plain, base) = network(SETTINGS[settings], name), base_parameters(name)
    arrays, parameters = test_step.batch(0), first_parameters(net)
    np.testing.assert_allclose(logits(net, parameters, arrays), logits(plain, base, arrays), atol=2e-6)
    trained = trained_parameters(net)
    changed = logits(net, trained, arrays)
    assert np.abs(changed - logits(plain, base, arrays)).max() > 1e-3
    if settings == "bottleneck":
        with pytest.raises(UserError, match="Bottleneck cannot be merged into the weights"):
            merge_parameters(net.graphdef, trained)
        return
    merged = merge_parameters(net.graphdef, trained)
    assert merged.keys() == base.keys()
    np.testing.assert_allclose(changed, logits(plain, merged, arrays), atol=1e-5)
