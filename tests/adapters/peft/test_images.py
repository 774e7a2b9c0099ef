"""Adapters of a ViT are peft's, in both directions."""

import json

import numpy as np
import peft
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxft.adapters.plan import plan_adapters
from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.hub.weights import make_file_tensors
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import FAMILIES
from tests.adapters.peft import parity
from tests.models import image_parity, torch_parity

ADAPTERS = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "mlp.fc2"], feedforward_modules=["mlp.fc2"]),
}


@pytest.mark.parametrize(("name", "method"), [("vit", "lora"), ("deit", "ia3")])
def test_adapters_of_peft_have_its_logits_and_come_back(name, method, tmp_path):
    config, kind = image_parity.EXAMPLES[name], HeadKind.IMAGE
    base, theirs = parity.make_peft(config, kind, ADAPTERS[method](), seed=1)
    folder = parity.save_peft(theirs, tmp_path / "peft")
    ours = parity.load_ours(config, kind, base, folder, "float32")
    pixels = np.random.default_rng(0).normal(size=(4, *config.image_size, 3)).astype(np.float32)
    logits = ours.logits({"pixels": pixels, "weights": np.ones(4, np.float32)})[:, 0]
    with torch.no_grad():
        expected = theirs(pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2)).logits.numpy()
        theirs.disable_adapter_layers()
        without = theirs(pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2)).logits.numpy()
    assert torch_parity.distance(logits, expected) < 1e-5 * np.linalg.norm(expected)
    assert torch_parity.distance(without, expected) > 1e-2 * np.linalg.norm(expected)
    back = parity.load_peft(
        config, kind, base, parity.save_ours(config, kind, ours, tmp_path / "ours"), "float32"
    )
    with torch.no_grad():
        exported = back(pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2)).logits.numpy()
    np.testing.assert_array_equal(exported, expected)


def test_an_adapter_may_have_the_names_of_transformers_4(tmp_path):
    """In which peft, with transformers 5, finds no module."""
    config, kind = image_parity.EXAMPLES["vit"], HeadKind.IMAGE
    lora = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["mlp.fc1", "classifier"]
    )
    base, theirs = parity.make_peft(config, kind, lora, seed=1)
    folder = parity.save_peft(theirs, tmp_path / "peft")
    new = parity.load_ours(config, kind, base, folder, "float32")
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    table = FAMILIES["vit"].table_with_head(kind, config)
    tensors = make_file_tensors(table, load_file(weights))
    assert "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight" in tensors
    save_file(tensors, weights)
    changes = {"target_modules": ["query", "value"], "modules_to_save": ["intermediate.dense", "classifier"]}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    old = parity.load_ours(config, kind, base, folder, "float32")
    assert "backbone/layers/mlp/up/kernel" in new.plan.saved and old.plan.saved == new.plan.saved
    for path, value in new.parameters.items():
        np.testing.assert_array_equal(old.parameters[path], value, err_msg=path)


def test_a_network_without_linear_layers_says_what_else_can_be_trained():
    config = image_parity.EXAMPLES["resnet basic"]
    table = FAMILIES["resnet"].table_with_head(HeadKind.IMAGE, config)
    model = nnx.eval_shape(lambda: nnx.Dict(backbone=FAMILIES["resnet"].network(config, rngs=nnx.Rngs(0))))
    with pytest.raises(
        UserError, match="has no linear layers that could get adapters; freeze some of its layers"
    ):
        plan_adapters(Adapter(method="lora"), FAMILIES["resnet"].adapter_targets, table, model)
