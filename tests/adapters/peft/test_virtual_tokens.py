"""Prefixes that peft made have its logits here, and ours there; and they go the way that peft's go."""

import jax
import peft
import pytest

from jaxft.config.adapter import Adapter
from jaxft.layers.heads.kinds import HeadKind
from tests.adapters.peft import parity
from tests.models import torch_parity

COUNT = 2


def make_prefix(projected: bool) -> peft.PeftConfig:
    options = {"prefix_projection": True, "encoder_hidden_size": 6} if projected else {}
    return peft.PrefixTuningConfig(num_virtual_tokens=COUNT, **options)


CASES = {"projected": ("bert", HeadKind.SEQUENCE, True), "causal": ("gpt2", HeadKind.NEXT_TOKEN, False)}
MORE_CASES = {
    f"{model_type} {kind.value}": (model_type, kind, model_type != "bert")
    for model_type in ("bert", "roberta", "electra", "gpt2")
    for kind in (HeadKind.TOKEN, HeadKind.SEQUENCE, HeadKind.QUESTION)
    if (model_type, kind) != ("gpt2", HeadKind.QUESTION)
}


def check_both_ways(model_type, kind, projected, folder):
    """Asserts that a prefix of peft has its logits here, and is the same in peft after we have written it."""
    config = torch_parity.example_shape(model_type, seed=1)
    base, theirs = parity.make_peft(config, kind, make_prefix(projected), 1, "float64")
    batch, texts = torch_parity.random_batch(config, 0)
    if kind is HeadKind.QUESTION and "token_type_ids" in texts:  # which peft leaves out
        batch["token_type_ids"][:], texts["token_type_ids"][:] = 0, 0
    parity.save_peft(theirs, folder / "theirs")
    with jax.enable_x64(True):
        ours = parity.load_ours(config, kind, base, folder / "theirs", "float64")
        logits = ours.logits(batch)
        assert parity.distance_of_logits(logits, theirs, texts) < 1e-8
        parity.save_ours(config, kind, ours, folder / "ours")
        back = parity.load_peft(config, kind, base, folder / "ours", "float64")
        assert parity.distance_of_logits(logits, back, texts) < 1e-6  # peft reads it in float32


@pytest.mark.parametrize("name", CASES)
def test_logits_are_pefts_both_ways(name, tmp_path):
    check_both_ways(*CASES[name], tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("name", MORE_CASES)
def test_logits_are_pefts_in_more_cases(name, tmp_path):
    check_both_ways(*MORE_CASES[name], tmp_path)


def load_projection(ours: parity.Ours, theirs: peft.PeftModel):
    """Gives our network of two layers the values of peft's."""
    names = ("embedding.weight", "transform.0.weight", "transform.0.bias")
    names += ("transform.2.weight", "transform.2.bias")
    encoder = theirs.prompt_encoder["default"].state_dict()
    for name, part in zip(names, ("embedding", "down", "down_bias", "up", "up_bias"), strict=True):
        value = encoder[name].numpy().copy()
        ours.parameters[f"backbone/adapter/{part}"] = value.T if name.startswith("transform") else value


@pytest.mark.parametrize("projected", [True, pytest.param(False, marks=pytest.mark.sweep)])
def test_five_steps_have_pefts_losses(projected, tmp_path):
    config = torch_parity.example_shape("bert", seed=1)
    base, theirs = parity.make_peft(config, HeadKind.TOKEN, make_prefix(projected), 1)
    ours = parity.load_ours(config, HeadKind.TOKEN, base, parity.save_peft(theirs, tmp_path), "float32")
    if projected:
        head = {path: value for path, value in ours.parameters.items() if path.startswith("head/")}
        settings = Adapter("prefix", num_virtual_tokens=COUNT, prefix_projection=True, encoder_hidden_size=6)
        ours = parity.make_ours(config, HeadKind.TOKEN, base, settings, "float32")
        ours.parameters |= head
        load_projection(ours, theirs)
    batches = parity.labelled_batches(config, 5)
    numbers = {"lr": 0.02, "decay": 0.1, "eps": 1e-3, "ratio": 1.0}
    expected = parity.train_peft(theirs, batches, **numbers)
    assert abs(expected[0] - expected[-1]) > 0.01
    assert parity.train_ours(config, ours, batches, **numbers) == pytest.approx(expected, abs=1e-5)
