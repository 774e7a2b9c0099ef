"""Adapters that peft made have its logits here, and ours have theirs in peft."""

import functools
import json
import pathlib
import types

import jax
import numpy as np
import peft
import pytest

from jaxft.adapters.peft.config import read_settings
from jaxft.adapters.peft.files import load_adapter, save_adapter
from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.export.adapter_loader import add_adapter
from jaxft.hub.adapter_files import AdapterFiles, read_adapter, write_adapter_folder
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import FAMILIES
from jaxft.training.settings import load_settings
from tests.adapters.peft import parity
from tests.adapters.test_adapters import LORA_TARGETS, network
from tests.models import torch_parity

# Model, head, adapter, and the tolerance in float64: what begins with a part of the weights has it in float32, and so
# are scales that are no sums of powers of 2.
CASES = {
    "dora": (
        "bert",
        HeadKind.TOKEN,
        lambda: peft.LoraConfig(
            r=4,  # scales, alpha / sqrt(r), are float32: here without rounding
            use_dora=True,
            use_rslora=True,
            target_modules=["query", "value", "intermediate.dense"],
            rank_pattern={"layer.0.attention.self.query": 1},
            alpha_pattern={"value": 5},
            bias="lora_only",
        ),
        1e-8,
    ),
    "fused": (
        "gpt2",
        HeadKind.NEXT_TOKEN,
        lambda: peft.LoraConfig(
            r=2, lora_alpha=3, target_modules=["c_attn", "c_fc"], layers_to_transform=1, bias="all"
        ),
        1e-8,
    ),
    "fused ia3": ("gpt2", HeadKind.SEQUENCE, peft.IA3Config, 1e-8),
    "adalora": (
        "bert",
        HeadKind.TOKEN,
        lambda: peft.AdaLoraConfig(
            init_r=3,
            lora_alpha=5,
            target_modules=["query", "intermediate.dense"],
            bias="lora_only",
            total_step=9,
        ),
        1e-6,
    ),
    "pissa": (
        "distilbert",
        HeadKind.SEQUENCE,
        lambda: peft.LoraConfig(
            r=3,
            use_rslora=True,
            target_modules=".*layer\\.0.*lin.?",
            modules_to_save=["pre_classifier", "embeddings.LayerNorm"],
            init_lora_weights="pissa",
        ),
        1e-5,
    ),
}
PISSA_TARGETS = (
    "attention.k_lin",
    "attention.out_lin",
    "attention.q_lin",
    "attention.v_lin",
    "ffn.lin1",
    "ffn.lin2",
)
MORE_CASES = {
    "lora": ("bert", HeadKind.QUESTION, lambda: peft.LoraConfig(r=2, init_lora_weights="gaussian"), 1e-8),
    "fused dora": ("gpt2", HeadKind.TOKEN, lambda: peft.LoraConfig(r=2, use_dora=True), 1e-8),
    "olora": (
        "roberta",
        HeadKind.SEQUENCE,
        lambda: peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights="olora"),
        1e-5,
    ),
    "all": (
        "roberta",
        HeadKind.SEQUENCE,
        lambda: peft.LoraConfig(target_modules="all-linear", exclude_modules=["key"]),
        1e-8,
    ),
    "ia3": ("bert", HeadKind.TOKEN, peft.IA3Config, 1e-8),
    "some layers": (
        "bert",
        HeadKind.TOKEN,
        lambda: peft.LoraConfig(
            layers_to_transform=[1], bias="lora_only", modules_to_save=["layer.0.attention.output.LayerNorm"]
        ),
        1e-8,
    ),
    **{
        name: (model_type, HeadKind.TOKEN, make, 1e-6 if name.startswith("adalora") else 1e-8)
        for name, (model_type, make) in parity.OF_FAMILIES.items()
    },
    **{
        f"usual modules of {name}": (
            name,
            HeadKind.TOKEN,
            functools.partial(
                peft.LoraConfig, r=2, target_modules=LORA_TARGETS.get(name, ["query", "value"])
            ),
            1e-8,
        )
        for name, family in FAMILIES.items()
        if HeadKind.TOKEN in family.heads
    },
}


def check_both_ways(model_type, kind, make_adapter, tolerance, dtype, folder):
    """Asserts that an adapter of peft has its logits here, and is the same in peft after we have written it."""
    config = torch_parity.example_shape(model_type, seed=1)
    base, theirs = parity.make_peft(config, kind, make_adapter(), 1, dtype)
    batch, texts = torch_parity.random_batch(config, 0)
    if isinstance(theirs.peft_config["default"], peft.AdaLoraConfig):
        parity.prune_ranks(theirs)
    parity.save_peft(theirs, folder / "theirs")
    with jax.enable_x64(dtype == "float64"):
        ours = parity.load_ours(config, kind, base, folder / "theirs", dtype)
        logits = ours.logits(batch)
        assert parity.distance_of_logits(logits, theirs, texts) < tolerance
        parity.save_ours(config, kind, ours, folder / "ours")
        back = parity.load_peft(config, kind, base, folder / "ours", dtype)
        assert parity.distance_of_logits(logits, back, texts) < tolerance
    return back.peft_config["default"]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_pefts_both_ways(name, tmp_path):
    config = check_both_ways(*CASES[name], "float64", tmp_path)
    assert (
        config.target_modules
        == {
            "dora": {"attention.self.query", "attention.self.value", "intermediate.dense"},
            "fused": {"transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"},
            "fused ia3": {"attn.c_attn", "mlp.c_proj"},
            "adalora": {"attention.self.query", "intermediate.dense"},
            "pissa": {f"distilbert.transformer.layer.0.{name}" for name in PISSA_TARGETS},
        }[name]
    )
    assert config.fan_in_fan_out == name.startswith("fused")
    if name == "adalora":
        assert sorted({sum(ranks) for ranks in config.rank_pattern.values()}) == [1, 2, 3]
    if name == "pissa":  # which became a LoRA of twice the rank
        assert (config.r, config.lora_alpha, config.init_lora_weights) == (6, 8 * 2**0.5, True)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES | MORE_CASES)
def test_logits_are_pefts_in_more_cases(name, dtype, tmp_path):
    model_type, kind, make_adapter, tolerance = (CASES | MORE_CASES)[name]
    tolerance = tolerance if dtype == "float64" else 1e-4
    check_both_ways(model_type, kind, make_adapter, tolerance, dtype, tmp_path)


QUERY = "bert.encoder.layer.0.attention.self.query"
TENSORS = {
    f"{QUERY}.lora_A.weight": np.ones((2, 15), np.float32),
    f"{QUERY}.lora_B.weight": np.ones((15, 2), np.float32),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "the method is 'LOHA'; expected LORA, .*; merge the adapter in PEFT"),
        ({"lora_bias": True}, "'lora_bias' is True, which jaxft does not support"),
        ({"trainable_token_indices": [3]}, r"'trainable_token_indices' is \[3\]"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changed the base",
        ),
    ],
)
def test_what_is_not_supported_is_named(changes, message):
    config = {"peft_type": "LORA", "r": 2, "task_type": "TOKEN_CLS", "peft_version": "0.21.2"}
    with pytest.raises(UserError, match=message):
        read_settings(AdapterFiles(pathlib.Path("folder"), config | changes, TENSORS))


def test_changes_that_contradict_an_adapter_are_refused_also_with_defaults(tmp_path):
    """A recipe's default counts as unset, for recipes in Python hold all settings."""
    folder = tmp_path / "adapter"
    config = {"peft_type": "LORA", "r": 2, "lora_dropout": 0.1}
    write_adapter_folder(folder, TENSORS, config, lambda _: None)
    recipe, start = {"task": "token_classification", "adapter.r": 8}, f"--config.adapter.init_from={folder}"
    adapter = load_settings(recipe, [start, "--config.adapter.alpha=8"]).adapter
    assert (adapter.method, adapter.r, adapter.alpha, adapter.dropout) == ("lora", 2, 8.0, 0.1)
    assert load_settings(recipe, [start, "--config.adapter.dropout=0"]).adapter.dropout == 0.0
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(recipe | {"adapter.init_from": str(folder), "adapter.r": 2, "adapter.dropout": 0})
    )
    assert (
        load_settings(str(file)).adapter.dropout == 0.0
    )  # as a run holds it that was started with that change
    with pytest.raises(UserError, match="config.adapter.r=8: the adapter of .* has 2; leave the setting out"):
        load_settings(recipe, [start, "--config.adapter.r=8"])
    with pytest.raises(UserError, match="config.adapter.method='none': the adapter of .* has 'lora'"):
        load_settings(recipe, {"adapter": {"init_from": folder, "method": "none"}})


def test_adalora_goes_on_as_it_was_trained(tmp_path):
    """What only says how it is trained may be changed; PEFT too takes the file's values for all that is not."""
    folder = tmp_path / "adapter"
    module = "bert.encoder.layer.0.attention.self.query"
    shapes = {"lora_A": (3, 4), "lora_B": (4, 3), "lora_E": (3, 1)}
    tensors = {f"{module}.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    trained = {"deltaT": 5, "beta1": 0.9, "beta2": 0.8, "orth_reg_weight": 0.1}
    config = {"peft_type": "ADALORA", "init_r": 3, "target_r": 2, "total_step": 9} | trained
    write_adapter_folder(folder, tensors, config, lambda _: None)
    start = {"adapter.init_from": str(folder)}
    adapter = load_settings({"task": "token_classification"}, start).adapter
    assert {name: getattr(adapter, name) for name in trained} == trained and adapter.target_r == 2
    changed = load_settings({"task": "token_classification"}, start | {"adapter.deltaT": 1}).adapter
    assert changed.deltaT == 1 and changed.beta1 == 0.9
    (folder / "adapter_config.json").write_text(json.dumps(config | {"deltaT": None}))
    assert load_settings({"task": "token_classification"}, start).adapter.deltaT == 1  # the default
    with pytest.raises(UserError, match="config.adapter.target_r=1: the adapter of .* has 2"):
        load_settings({"task": "token_classification"}, start | {"adapter.target_r": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{QUERY}.lora_A.weight": np.ones((3, 15))},
            r"lora_A.weight' has the shape \(3, 15\), but .* \(2, 15\)",
        ),
        ({f"{QUERY}.lora_B.weight": None}, "has no tensor '.*query.lora_B.weight'"),
        ({"bert.embeddings.word_embeddings.lora_embedding_A": np.ones(1)}, "is an adapter of embeddings"),
        ({"bert.lstm.weight": np.ones(1)}, "has a tensor 'bert.lstm.weight' .* no parameter for"),
    ],
)
def test_an_adapter_of_another_model_is_refused(changes, message):
    tensors = {name: tensor for name, tensor in (TENSORS | changes).items() if tensor is not None}
    adapter = AdapterFiles(pathlib.Path("folder"), {"peft_type": "LORA", "r": 2}, tensors)
    config = torch_parity.example_shape("bert", seed=1)
    model = torch_parity.make_torch(config, HeadKind.TOKEN, seed=0)
    base = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    settings = Adapter(**read_settings(adapter))
    ours = parity.make_ours(config, HeadKind.TOKEN, base, settings, "float32")
    table = FAMILIES["bert"].table_with_head(HeadKind.TOKEN, config)
    with pytest.raises(UserError, match=message):
        load_adapter(adapter, ours.plan, table, ours.parameters, HeadKind.TOKEN, lambda _: None)


@pytest.mark.parametrize(
    ("outputs", "fields", "expected", "message"),
    [
        (5, None, [0, 1, 2, 3, 4], "so its outputs are taken for the labels in their order"),
        (3, None, None, "its head has another number of outputs, so the head is new"),
        (5, {"order": [4, 3, 2, 1, 0]}, [4, 3, 2, 1, 0], "its head is kept, for it has the same 5 labels"),
        (5, {"order": None}, None, "its head is for other labels, so the head is new"),
    ],
)
def test_a_head_is_taken_if_its_labels_or_their_number_are_those_of_the_data(
    outputs, fields, expected, message, tmp_path
):
    """`fields` are those of the config.json next to PEFT's files, which PEFT does not write."""
    config = torch_parity.example_shape("bert", seed=1)
    base = torch_parity.make_torch(config, HeadKind.TOKEN, seed=0).state_dict()
    base = {name: tensor.numpy() for name, tensor in base.items()}
    head = np.arange(15 * outputs, dtype=np.float32).reshape(outputs, 15)
    head_tensors = {"classifier.weight": head, "classifier.bias": head[:, 0]}
    adapter = AdapterFiles(tmp_path, {"peft_type": "LORA", "r": 2}, TENSORS | head_tensors)
    if fields is not None:
        (tmp_path / "config.json").write_text(json.dumps(fields))
    ours = parity.make_ours(config, HeadKind.TOKEN, base, Adapter(**read_settings(adapter)), "float32")
    table = FAMILIES["bert"].table_with_head(HeadKind.TOKEN, config)

    def load(adapter):
        return load_adapter(
            adapter, ours.plan, table, ours.parameters, HeadKind.TOKEN, lambda fields: fields["order"]
        )

    loaded, note = load(adapter)
    assert note.endswith(message)
    of_texts, note = load(adapter._replace(config=adapter.config | {"task_type": "SEQ_CLS"}))
    assert note.endswith("its head is for SEQ_CLS, so the head is new")
    assert of_texts.keys() == {path for path in loaded if not path.startswith("head/")}
    of_features, _ = load(adapter._replace(config=adapter.config | {"task_type": "FEATURE_EXTRACTION"}))
    assert of_features.keys() == loaded.keys()
    if expected is None:
        assert not any(path.startswith("head/") for path in loaded)
    else:
        np.testing.assert_array_equal(loaded["head/kernel"], head[expected].T)
        np.testing.assert_array_equal(loaded["head/bias"], head[expected, 0])


def test_a_head_for_labels_is_not_taken_for_masked_words(tmp_path):
    """Although ModernBERT's heads share layers with that of pretraining."""
    config = torch_parity.example_shape("modernbert", seed=1)
    settings = peft.LoraConfig(r=2, target_modules=["Wqkv"], modules_to_save=["head", "classifier"])
    settings.task_type = "SEQ_CLS"
    _, theirs = parity.make_peft(config, HeadKind.SEQUENCE, settings, seed=1)
    adapter = read_adapter(str(parity.save_peft(theirs, tmp_path)))
    base = torch_parity.make_torch(config, HeadKind.MASKED, seed=0).state_dict()
    base = {name: tensor.numpy() for name, tensor in base.items()}
    ours = parity.make_ours(config, HeadKind.MASKED, base, Adapter(**read_settings(adapter)), "float32")
    table = FAMILIES["modernbert"].table_with_head(HeadKind.MASKED, config)
    loaded, note = load_adapter(adapter, ours.plan, table, ours.parameters, HeadKind.MASKED, lambda _: None)
    assert loaded and not any(path.startswith("head/") for path in loaded)
    assert note.endswith("its head is for SEQ_CLS, so the head is new")


@pytest.mark.parametrize(
    "settings", [{"method": "bottleneck", "r": 3, "activation": "silu"}, {"method": "bitfit"}]
)
def test_methods_that_peft_has_not_have_a_loader_for_torch(settings, tmp_path):
    config, kind = torch_parity.example_shape("bert", seed=1), HeadKind.TOKEN
    model = torch_parity.make_torch(config, kind, seed=1)
    base = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    ours = parity.make_ours(config, kind, base, Adapter(**settings), "float32")
    rng = np.random.default_rng(0)
    for path, value in ours.parameters.items():
        if ours.plan.trains(path, ours.roles[path]):
            ours.parameters[path] = value + rng.normal(scale=0.2, size=value.shape).astype(np.float32)
    batch, texts = torch_parity.random_batch(config, 0)
    parity.save_ours(config, kind, ours, tmp_path)
    loaded = types.SimpleNamespace(
        base_model=add_adapter(model, tmp_path),
        active_peft_config=types.SimpleNamespace(is_prompt_learning=False),
    )
    assert parity.distance_of_logits(ours.logits(batch), loaded, texts) < 1e-4
    back = parity.load_ours(config, kind, base, tmp_path, "float32")
    for path, value in ours.parameters.items():
        np.testing.assert_array_equal(back.parameters[path], value, err_msg=path)


def test_a_bottleneck_after_a_fused_layer_has_no_place_in_files():
    plan = network({"method": "bottleneck", "target_modules": ("c_attn",)}, "gpt2").adapters
    with pytest.raises(UserError, match="attn.c_attn.weight is several layers here"):
        save_adapter(plan, FAMILIES["gpt2"].table, {}, HeadKind.TOKEN)
