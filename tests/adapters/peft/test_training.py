"""Adapters go the way that peft's go by torch's AdamW."""

import numpy as np
import peft
import pytest

from jaxft.config.adapter import Adapter
from jaxft.export.adapter_loader import add_adapter
from jaxft.hub.adapter_files import read_adapter
from jaxft.layers.heads.kinds import HeadKind
from tests.adapters.peft import parity
from tests.models import torch_parity

# Two steps without a choice of ranks, two with one, the last choice, and two after which ranks that went stay away.
ADALORA = {"init_r": 4, "target_r": 1, "tinit": 1, "tfinal": 3, "total_step": 7}
ADALORA["target_modules"] = ["query", "output.dense", "c_attn"]
# Each with what has a gradient of its own: shared matrices, lengths that are constants, biases, parts of the weights.
CASES = {
    "dora": (
        "bert",
        lambda: peft.LoraConfig(
            r=2, use_dora=True, use_rslora=True, rank_pattern={"layer.1.*value": 3}, bias="lora_only"
        ),
        4.0,
    ),
    "adalora": ("bert", lambda: peft.AdaLoraConfig(**ADALORA), 1.0),  # in layers that are apart, too
}
MORE_CASES = {
    "fused": (
        "gpt2",
        lambda: peft.LoraConfig(r=2, target_modules=["c_attn", "mlp.c_proj"], bias="all"),
        1.0,
    ),
    "fused ia3": ("gpt2", peft.IA3Config, 1.0),
    "fused adalora": ("gpt2", lambda: peft.AdaLoraConfig(**ADALORA), 1.0),
    "pissa": (
        "distilbert",
        lambda: peft.LoraConfig(r=2, target_modules=["q_lin", "lin2"], init_lora_weights="pissa"),
        1.0,
    ),
    "saved": (
        "bert",
        lambda: peft.LoraConfig(modules_to_save=["embeddings.LayerNorm"]),
        1.0,
    ),
    "some layers": (
        "bert",
        lambda: peft.LoraConfig(
            layers_to_transform=[1], bias="lora_only", modules_to_save=["layer.0.attention.output.LayerNorm"]
        ),
        1.0,
    ),
    "olora": (
        "roberta",
        lambda: peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights="olora"),
        1.0,
    ),
    "ia3": ("bert", peft.IA3Config, 1.0),
    **{name: (*case, 1.0) for name, case in parity.OF_FAMILIES.items()},
}


# With a tiny eps, first steps have the size of the rate even if a gradient is but rounding.
NUMBERS = {"lr": 0.02, "decay": 0.1, "eps": 1e-3}


def check_losses(model_type, make_adapter, ratio, tmp_path, *, unroll=False):
    config = torch_parity.example_shape(model_type, seed=1)
    base, theirs = parity.make_peft(config, HeadKind.TOKEN, make_adapter(), 1)
    folder = parity.save_peft(theirs, tmp_path)
    ours = parity.load_ours(config, HeadKind.TOKEN, base, folder, "float32")
    adapter = theirs.peft_config["default"]
    batches = parity.labelled_batches(config, getattr(adapter, "total_step", 5))
    phases = {name: getattr(adapter, name, 0) for name in ("tinit", "tfinal")}
    expected = parity.train_peft(theirs, batches, **NUMBERS, ratio=ratio)
    assert abs(expected[0] - expected[-1]) > 0.01
    losses = parity.train_ours(config, ours, batches, **NUMBERS, ratio=ratio, **phases, unroll=unroll)
    assert losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_five_steps_have_pefts_losses(name, tmp_path):
    check_losses(*CASES[name], tmp_path, unroll=name == "adalora")


@pytest.mark.sweep
@pytest.mark.parametrize("name", MORE_CASES)
def test_five_steps_have_pefts_losses_in_more_cases(name, tmp_path):
    check_losses(*MORE_CASES[name], tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "bottleneck", "r": 3},
        {"method": "bottleneck", "r": 3, "placement": "pfeiffer", "activation": "relu"},
        {"method": "bitfit"},
    ],
)
def test_five_steps_of_methods_that_peft_has_not_have_torchs_losses(settings, tmp_path):
    """In torch, the loader adds the adapter, of which all is trained that its files hold."""
    config, kind = torch_parity.example_shape("bert", seed=1), HeadKind.TOKEN
    model = torch_parity.make_torch(config, kind, seed=1)
    base = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    ours, rng = parity.make_ours(config, kind, base, Adapter(**settings), "float32"), np.random.default_rng(0)
    for path, value in ours.parameters.items():
        if ours.plan.trains(path, ours.roles[path]):
            ours.parameters[path] = value + rng.normal(scale=0.2, size=value.shape).astype(np.float32)
    parity.save_ours(config, kind, ours, tmp_path)
    theirs, trained = add_adapter(model, tmp_path), read_adapter(str(tmp_path)).tensors
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name in trained)
    batches = parity.labelled_batches(config, 5)
    expected = parity.train_peft(theirs, batches, **NUMBERS, ratio=1.0)
    assert abs(expected[0] - expected[-1]) > 0.01
    losses = parity.train_ours(config, ours, batches, **NUMBERS, ratio=1.0, unroll=False)
    assert losses == pytest.approx(expected, abs=1e-5)
