"""A plan of a run with adapters counts their bytes, their gradients and their optimizer's state, and no others."""

import jax

from jaxft.parallel.memory import shard_bytes
from jaxft.parallel.mesh import make_mesh
from jaxft.planning.estimate import Assumptions, estimate_step
from jaxft.training.network import Network
from jaxft.training.prepare import describe_base_model, prepare_network, prepare_task
from jaxft.training.settings import load_settings
from jaxft.training.trainer import make_trainer
from tests.planning.conftest import tiny_config

LORA = {"adapter__method": "lora", "adapter__r": 2}
LABELS = [f"label {number}" for number in range(9)]


def make_network(config) -> Network:
    hf_config = describe_base_model(config)
    return prepare_network(
        prepare_task(config, hf_config, LABELS), config, hf_config, make_mesh(config, jax.devices()[:1])
    )


def count_trained(net: Network) -> int:
    return sum(net.abstract[name].size for name in net.abstract.keys() - set(net.fixed_names))


def test_a_step_has_gradients_and_state_of_what_is_trained_alone():
    """Of three products with each kernel, the one for its gradient is left out; others, of scores, are not."""
    plans, trained = {}, {}
    changes = {"full": {}, "lora": LORA, "int8": LORA | {"adapter__base_dtype": "int8"}}
    for name, values in changes.items():
        config = tiny_config(**values)
        plans[name], _ = estimate_step(
            config, jax.devices()[:1], topology="cpu:1", chip=None, assumptions=Assumptions()
        )
        trained[name] = count_trained(make_network(config))
    for name, plan in plans.items():
        moments = 2 * 4 * trained[name]
        assert moments <= plan.optimizer_bytes_per_device < moments + 100, name  # and its count of steps
    full, lora, int8 = plans.values()
    assert trained["lora"] == trained["int8"] < trained["full"] / 20
    added = lora.parameters - full.parameters
    assert lora.param_bytes_per_device - full.param_bytes_per_device == 4 * added
    assert lora.flops_per_step < 0.8 * full.flops_per_step
    gradients, moments = (each * (trained["full"] - trained["lora"]) for each in (4, 8))
    assert full.peak_bytes_per_device - lora.peak_bytes_per_device > moments + 0.5 * gradients
    assert int8.param_bytes_per_device < lora.param_bytes_per_device


def test_lora_of_a_bert_of_base_size_has_two_percent_of_the_state_and_checkpoints_of_a_few_mib():
    state_bytes = {}
    for method in ("none", "lora"):
        values = {"model.checkpoint": "new:bert", "adapter.method": method}
        config = load_settings("ner", [f"--config.{key}={value}" for key, value in values.items()])
        net = make_network(config)
        assert net.model_config.hidden_size == 768 and net.model_config.num_layers == 12
        state_bytes[method] = shard_bytes(make_trainer(net, config, total=9, warmup=0).abstract.opt_state)
    assert state_bytes["lora"] < 0.02 * state_bytes["none"]
    assert shard_bytes(net.kept) + state_bytes["lora"] < 4 * 2**20
