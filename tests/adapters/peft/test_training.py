"""Adapters go the way that peft's go by torch's AdamW."""

import peft
import pytest

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
    "ia3": ("bert", peft.IA3Config, 1.0),
    **{name: (*case, 1.0) for name, case in parity.OF_FAMILIES.items()},
}


def check_losses(model_type, make_adapter, ratio, tmp_path, *, unroll=False):
    config = torch_parity.example_shape(model_type, seed=1)
    base, theirs = parity.make_peft(config, HeadKind.TOKEN, make_adapter(), 1)
    folder = parity.save_peft(theirs, tmp_path)
    ours = parity.load_ours(config, HeadKind.TOKEN, base, folder, "float32")
    adapter = theirs.peft_config["default"]
    batches = parity.labelled_batches(config, getattr(adapter, "total_step", 5))
    phases = {name: getattr(adapter, name, 0) for name in ("tinit", "tfinal")}
    # With a tiny eps, first steps have the size of the rate even if a gradient is but rounding.
    numbers = {"lr": 0.02, "decay": 0.1, "eps": 1e-3, "ratio": ratio}
    expected = parity.train_peft(theirs, batches, **numbers)
    assert abs(expected[0] - expected[-1]) > 0.01
    losses = parity.train_ours(config, ours, batches, **numbers, **phases, unroll=unroll)
    assert losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_five_steps_have_pefts_losses(name, tmp_path):
    check_losses(*CASES[name], tmp_path, unroll=name == "adalora")


@pytest.mark.sweep
@pytest.mark.parametrize("name", MORE_CASES)
def test_five_steps_have_pefts_losses_in_more_cases(name, tmp_path):
    check_losses(*MORE_CASES[name], tmp_path)
