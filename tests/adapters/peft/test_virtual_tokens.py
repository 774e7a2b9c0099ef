"""Prefixes and prompts that peft made have its logits here, and ours there; and they go the way that peft's go."""

import jax
import numpy as np
import peft
import pytest
import torch

from jaxft.config.adapter import Adapter
from jaxft.layers.heads.kinds import HeadKind
from tests.adapters.peft import parity
from tests.models import torch_parity

COUNT = 2


def make_prefix(projected: bool) -> peft.PeftConfig:
    options = {"prefix_projection": True, "encoder_hidden_size": 6} if projected else {}
    return peft.PrefixTuningConfig(num_virtual_tokens=COUNT, **options)


CASES = {"projected": ("bert", HeadKind.SEQUENCE, True)}
MORE_CASES = {"causal": ("gpt2", HeadKind.NEXT_TOKEN, False)} | {
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


PROMPTS = {"bert": HeadKind.SEQUENCE}
MORE_PROMPTS = {
    "gpt2": HeadKind.NEXT_TOKEN,
    "electra": HeadKind.TOKEN,
    "roberta": HeadKind.QUESTION,
    "mpnet": HeadKind.SEQUENCE,
    "deberta-v2": HeadKind.TOKEN,
    "distilbert": HeadKind.TOKEN,
    "modernbert": HeadKind.TOKEN,
}


def add_slots(packed, count):
    """Returns a batch of `torch_parity.random_batch` with slots for a prompt at the start of each text."""
    texts = {
        name: torch_parity.unpack(packed[name][..., None])[..., 0] for name in ("input_ids", "token_type_ids")
    }
    ids = np.broadcast_to(-1 - np.arange(count), (len(texts["input_ids"]), count))
    filled = {
        "input_ids": np.concatenate([ids, texts["input_ids"]], axis=1),
        "token_type_ids": np.pad(texts["token_type_ids"], ((0, 0), (count, 0))),
    }
    rows = tuple(tuple(length + count for length in lengths) for lengths in torch_parity.ROWS)
    batch = {name: torch_parity.pack(values[..., None], rows)[..., 0] for name, values in filled.items()}
    batch["segment_ids"], batch["positions"] = np.zeros((2, *batch["input_ids"].shape), np.int32)
    batch["starts"] = np.zeros_like(packed["starts"])
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths):
            place = row, slice(start, start + length)
            batch["segment_ids"][place], batch["positions"][place] = segment + 1, np.arange(length)
            batch["starts"][row, segment] = start
            start += length
    return batch, rows


def check_prompt_both_ways(model_type, kind, folder):
    """Asserts that a prompt of peft has its logits here, which has more positions, and is the same after a way back."""
    config = torch_parity.example_shape(model_type, seed=1)
    sizes = {"token_dim": getattr(config, "embedding_size", None) or config.hidden_size}
    adapter = peft.PromptTuningConfig(
        num_virtual_tokens=COUNT, num_layers=config.num_layers, num_attention_heads=config.num_heads, **sizes
    )
    base, theirs = parity.make_peft(config, kind, adapter, 1, "float64")
    packed, texts = torch_parity.random_batch(config, 0)
    if kind is HeadKind.QUESTION and "token_type_ids" in texts:  # which peft leaves out
        packed["token_type_ids"][:], texts["token_type_ids"][:] = 0, 0
    batch, rows = add_slots(packed, COUNT)

    def assert_logits_are(logits, model, tolerance):
        with torch.inference_mode():
            expected = torch_parity.torch_logits(model, texts).numpy()
        actual, mask = torch_parity.unpack(logits, rows), 1
        if expected.ndim == 3:
            mask = np.pad(texts["attention_mask"].numpy(), ((0, 0), (COUNT, 0)), constant_values=1)[..., None]
        assert np.abs((actual - expected) * mask).max() < tolerance < np.abs(expected).max()

    parity.save_peft(theirs, folder / "theirs")
    with jax.enable_x64(True):
        ours = parity.load_ours(config, kind, base, folder / "theirs", "float64")
        logits = ours.logits(batch)
        assert_logits_are(logits, theirs, 1e-8)
        parity.save_ours(config, kind, ours, folder / "ours")
        back = parity.load_peft(config, kind, base, folder / "ours", "float64")
        assert_logits_are(logits, back, 1e-6)  # peft reads it in float32


@pytest.mark.parametrize("model_type", PROMPTS)
def test_logits_with_prompts_are_pefts_both_ways(model_type, tmp_path):
    check_prompt_both_ways(model_type, PROMPTS[model_type], tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("model_type", MORE_PROMPTS)
def test_logits_with_prompts_are_pefts_in_more_families(model_type, tmp_path):
    check_prompt_both_ways(model_type, MORE_PROMPTS[model_type], tmp_path)


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
    check_losses(config, ours, theirs, batches)


def check_losses(config, ours, theirs, batches):
    numbers = {"lr": 0.02, "decay": 0.1, "eps": 1e-3, "ratio": 1.0}
    expected = parity.train_peft(theirs, batches, **numbers)
    assert abs(expected[0] - expected[-1]) > 0.01
    losses = parity.train_ours(config, ours, batches, **numbers, unroll=False)
    assert losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.sweep
def test_five_steps_with_a_prompt_have_pefts_losses(tmp_path):
    """In a causal model, where peft would learn the first token too, from the prompt alone."""
    config = torch_parity.example_shape("gpt2", seed=1)
    adapter = peft.PromptTuningConfig(num_virtual_tokens=COUNT)
    base, theirs = parity.make_peft(config, HeadKind.NEXT_TOKEN, adapter, 1)
    folder = parity.save_peft(theirs, tmp_path)
    ours = parity.load_ours(config, HeadKind.NEXT_TOKEN, base, folder, "float32")
    batches = []
    for seed in range(5):
        packed, texts = torch_parity.random_batch(config, seed)
        batch, rows = add_slots(packed, COUNT)
        is_predicted = texts["attention_mask"].numpy() > 0
        is_predicted[:, 0] = False  # as the first token alone has nothing before it
        texts["labels"] = torch.tensor(np.where(is_predicted, texts["input_ids"].numpy(), -100))
        values = (np.roll(texts["input_ids"].numpy(), -1, axis=1), np.roll(is_predicted, -1, axis=1))
        labels, weights = (
            torch_parity.pack(np.pad(value, ((0, 0), (COUNT, 0)))[..., None], rows)[..., 0]
            for value in values
        )
        batch |= {"labels": labels.astype(np.int32), "weights": weights.astype(np.float32)}
        batches.append((batch, texts))
    check_losses(config, ours, theirs, batches)
