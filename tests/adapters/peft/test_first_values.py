"""New adapters begin with values of the distributions that peft draws from."""

import types

import numpy as np
import peft
import pytest
import torch
from flax import nnx

from jaxft.adapters.base import Target
from jaxft.adapters.prefix import PrefixEncoder
from jaxft.adapters.prompt import Prompt
from jaxft.adapters.registry import METHODS
from jaxft.config.adapter import Adapter
from jaxft.layers.linear import Linear

INPUTS, OUTPUTS, RANK = 300, 400, 50
LORA = {"method": "lora", "r": RANK}
CASES = {
    "true": (LORA, lambda: peft.LoraConfig(r=RANK, target_modules=["0"])),
    "gaussian": (
        LORA | {"init_lora_weights": "gaussian"},
        lambda: peft.LoraConfig(r=RANK, target_modules=["0"], init_lora_weights="gaussian"),
    ),
    "false": (
        LORA | {"init_lora_weights": "false"},
        lambda: peft.LoraConfig(r=RANK, target_modules=["0"], init_lora_weights=False),
    ),
    "adalora": (
        {"method": "adalora", "init_r": RANK},
        lambda: peft.AdaLoraConfig(init_r=RANK, target_modules=["0"], total_step=9),
    ),
    "ia3": (
        {"method": "ia3"},
        lambda: peft.IA3Config(target_modules=["0"], feedforward_modules=[]),
    ),
}
TENSORS = {"a": "lora_A", "b": "lora_B", "values": "lora_E", "factors": "ia3_l"}


def assert_same_distribution(ours, theirs, name: str) -> None:
    """Compares the scale of values, and the share of it that tells a uniform distribution from a normal one."""
    pairs = [(values.std(), np.abs(values).mean()) for values in map(np.asarray, (ours, theirs))]
    assert pairs[0] == pytest.approx(pairs[1], rel=0.03), name


@pytest.mark.parametrize("name", CASES)
def test_adapters_of_linear_layers_begin_as_pefts_do(name):
    values, make_adapter = CASES[name]
    settings = Adapter(**values)
    linear = Linear(INPUTS, OUTPUTS, initializer_range=1.0, rngs=nnx.Rngs(0))
    target = Target("weight", ("linear",), is_stacked=False, ranks=(RANK,), alphas=(8.0,))
    [adapter] = METHODS[settings.method].make([linear], target, settings, nnx.Rngs(1))
    torch.manual_seed(0)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(INPUTS, OUTPUTS)), make_adapter())
    theirs = {name: value.detach().numpy() for name, value in model.named_parameters()}
    compared = 0
    for part, peft_part in TENSORS.items():
        if hasattr(adapter, part):
            [value] = [value for path, value in theirs.items() if f".{peft_part}." in path]
            assert_same_distribution(getattr(adapter, part)[...], value, part)
            compared += 1
    assert compared == (1 if name == "ia3" else 3 if name == "adalora" else 2)


@pytest.mark.parametrize("projected", [False, True])
def test_prefixes_begin_as_pefts_do(projected):
    settings = Adapter("prefix", num_virtual_tokens=60, prefix_projection=projected, encoder_hidden_size=90)
    ours = PrefixEncoder(4, 70, settings, nnx.Rngs(0))
    sizes = {"num_layers": 4, "token_dim": 70, "num_virtual_tokens": 60, "encoder_hidden_size": 90}
    torch.manual_seed(0)
    theirs = peft.PrefixEncoder(peft.PrefixTuningConfig(prefix_projection=projected, **sizes)).state_dict()
    names = {"embedding": "embedding.weight"}
    if projected:
        names |= {"down": "transform.0.weight", "up": "transform.2.weight", "up_bias": "transform.2.bias"}
    for part, name in names.items():
        assert_same_distribution(getattr(ours, part)[...], theirs[name], name)


def test_random_prompts_begin_as_pefts_do():
    ours = Prompt(100, 90, rngs=nnx.Rngs(0))
    sizes = {"num_layers": 1, "token_dim": 90, "num_virtual_tokens": 100, "num_transformer_submodules": 1}
    torch.manual_seed(0)
    words = types.SimpleNamespace()  # which a random prompt does not read
    theirs = peft.PromptEmbedding(peft.PromptTuningConfig(**sizes), words)
    assert_same_distribution(ours.embedding[...], theirs.embedding.weight.detach(), "embedding")
