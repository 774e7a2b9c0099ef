"""Networks of images as a run sees them: FLOPs, freezing, learning rates, decay, positions for another size."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from torch.utils.flop_counter import FlopCounterMode

from jaxft.errors import UserError
from jaxft.hub.weights import load_weights
from jaxft.layers import parameter_paths
from jaxft.layers.convolution.inputs import ImageInputs
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.parameters import Kind
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.models.new_model import describe_new_model
from jaxft.models.pretrained_model import PretrainedModel, describe_pretrained_model, resolve_model
from jaxft.models.registry import FAMILIES
from jaxft.models.vit.weights import interpolate_positions
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import make_task
from jaxft.training.network import load_parameters, make_network
from jaxft.training.optimizer.parameter_rules import find_decayed, make_rate_factors, split_frozen
from jaxft.training.settings import settings_from_config
from tests.models import image_parity

LABELS = [f"label {number}" for number in range(image_parity.LABELS)]
RESNET, VIT = image_parity.EXAMPLES["resnet bottleneck"], image_parity.EXAMPLES["vit"]
DROPPING_VIT = dataclasses.replace(VIT, num_layers=4, hidden_dropout=0.1, attention_dropout=0.1)


def make_settings(size=16, **values):
    return settings_from_config({"task": "image_classification", "data.image_size": size} | values)


def network(config, hf_config, labels=LABELS):
    """The abstract network of a run on one device."""
    task = make_task(labels, config, head_dropout=0.0)
    model_config, runtime = resolve_model(config, hf_config | {"image_size": config.data.image_size})
    return make_network(task, model_config, runtime, make_mesh(config, jax.devices()[:1]))


@pytest.mark.parametrize("model_type", ["resnet", "vit", "deit"])
def test_flops_of_a_picture_are_those_that_torch_counts(model_type):
    """Of transformers' base models at another size than theirs; the last layer of a ViT computes one position."""
    hf_config = transformers.AutoConfig.for_model(model_type, num_labels=10, image_size=96, architectures=[])
    config = make_settings(96, **{"model.unroll": "no"})
    net = network(config, hf_config.to_dict(), LABELS * 2)
    with torch.device("meta"):
        model = transformers.AutoModelForImageClassification.from_config(
            hf_config, attn_implementation="eager"
        )
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 96, 96))
    assert net.train_flops_per_token(1) == 3 * counter.get_total_flops()
    all_but_head = [
        name for name in net.roles if not name.startswith("head/")
    ]  # which has gradients then, alone
    head = net.abstract["head/kernel"].size
    assert net.train_flops_per_token(1, frozen=all_but_head) == counter.get_total_flops() + 4 * head
    if model_type != "resnet":
        pruned = network(make_settings(96), hf_config.to_dict(), LABELS * 2).train_flops_per_token(1)
        width, inner, positions = 768, 3072, net.model_config.positions
        assert net.train_flops_per_token(1) - pruned == pytest.approx(
            6 * (positions - 1) * (width * width + 2 * width * inner)
        )


@pytest.mark.parametrize(
    ("name", "parameters"), [("vit", 86_567_656), ("deit", 86_569_192), ("resnet", 25_557_032)]
)
def test_new_models_have_the_published_sizes(name, parameters):
    """ViT-B/16, DeiT-B with two tokens and ResNet-50, with the 1,000 labels of ImageNet."""
    config = make_settings(224, **{"model.checkpoint": f"new:{name}", "model.init": "scratch"})
    net = network(config, describe_new_model(config), [f"label {number}" for number in range(1000)])
    assert net.parameter_count == parameters


@pytest.mark.parametrize(("config", "unroll"), [(RESNET, True), (DROPPING_VIT, False)], ids=["resnet", "vit"])
def test_remat_computes_again_and_changes_no_gradient(config, unroll):
    """Nor a running statistic; dropout is on, so masks that are computed again must be the same ones."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(6, *config.image_size, 3)).astype(np.float32)
    results, products = [], []
    for remat in ("none", "full"):
        graph, abstract = image_parity.make_classifier(config, Runtime(remat=remat, unroll=unroll))
        if not results:
            values = {
                path: rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype) for path, leaf in abstract.items()
            }
        statistics = {path: value for path, value in values.items() if "/running_" in path}

        def compute_loss(parameters, graph=graph, statistics=statistics):
            model = nnx.merge(graph, parameter_paths.unflatten({**parameters, **statistics}))
            inputs = ImageInputs(pixels, np.ones(len(pixels), np.float32))
            logits = model(inputs, dropout=DropoutSeed(jnp.uint32(3), jnp.int32(0)))
            after = parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))
            return (logits**2).sum(), {path: after[path] for path in statistics}

        parameters = {path: value for path, value in values.items() if path not in statistics}
        lowered = jax.jit(jax.grad(compute_loss, has_aux=True)).lower(parameters)
        results.append(lowered.compile()(parameters))
        products.append(len(re.findall(r"stablehlo\.(?:convolution|dot_general)", lowered.as_text())))
    (gradients, after), (gradients_with_remat, after_with_remat) = results
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for path, gradient in gradients.items():
        atol = 1e-4 * np.abs(gradient).max() + 1e-6 * largest  # some are 0 but for rounding
        np.testing.assert_allclose(gradients_with_remat[path], gradient, rtol=0, atol=atol, err_msg=path)
    for path, statistic in after.items():
        np.testing.assert_allclose(after_with_remat[path], statistic, rtol=1e-5, err_msg=path)
        assert not np.array_equal(statistic, values[path])
    assert products[1] > products[0]


def test_stages_are_frozen_with_their_statistics_and_have_rates():
    values = {"optim.freeze": ("^backbone/stem/", "^backbone/stages/[01]/"), "optim.layer_decay": 0.5}
    config = make_settings(**values)
    net = network(config, RESNET.to_hf())
    trainable, frozen, statistics = split_frozen(config, net.roles)
    assert {name.split("/")[0] if name.startswith("head") else name[:17] for name in trainable} == {
        "backbone/stages/2",
        "head",
    }
    assert all(name.startswith("backbone/stages/2/") and "/running_" in name for name in statistics)
    assert any("/running_mean" in name for name in frozen)
    roles = {name: role for name, role in net.roles.items() if role.kind is not Kind.STATISTIC}
    decayed = find_decayed(config, roles)
    assert {name for name, decays in decayed.items() if decays} == {
        name for name in roles if name.endswith("/kernel")
    }
    factors = make_rate_factors(config, roles, net.model_config.num_layers)
    assert {
        name.split("/norm")[0]: factor for name, factor in factors.items() if "convolution" not in name
    } == {
        "backbone/stem": 0.5**4,
        **{
            name.split("/norm")[0]: 0.5 ** (3 - int(name.split("/")[2]))
            for name in roles
            if name.startswith("backbone/stages/") and "/norm" in name
        },
        "head/kernel": 1,
        "head/bias": 1,
    }


def test_layers_of_a_vit_have_rates_and_its_tokens_decay_as_in_transformers():
    config = make_settings(**{"optim.layer_decay": 0.5})
    net = network(config, VIT.to_hf())
    factors = make_rate_factors(config, net.roles, net.model_config.num_layers)
    assert (
        factors["backbone/embeddings/patches/kernel"]
        == factors["backbone/embeddings/class_token/embedding"]
        == 0.5**3
    )
    np.testing.assert_array_equal(factors["backbone/layers/mlp/up/kernel"], [0.25, 0.5])
    assert factors["backbone/norm/scale"] == factors["head/kernel"] == 1
    kept = {name for name, decays in find_decayed(config, net.roles).items() if not decays}
    assert kept == {name for name in net.roles if "norm" in name or name.endswith("/bias")}


@pytest.mark.parametrize(("old", "new"), [(16, 24), (24, 12)])
def test_positions_for_another_size_are_those_that_transformers_interpolates(old, new, tmp_path):
    hf_config = transformers.DeiTConfig(
        hidden_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=5,
        image_size=old,
        patch_size=4,
    )
    model = transformers.DeiTForImageClassification(hf_config)
    with torch.no_grad():
        model.deit.embeddings.position_embeddings.normal_()
    tensors = image_parity.saved_tensors(model, tmp_path)
    config = make_settings(new)
    net = network(config, hf_config.to_dict())
    stored = json.loads((tmp_path / "config.json").read_text())
    checkpoint = PretrainedModel(str(tmp_path), tmp_path, stored | {"image_size": new}, processor=None)
    parameters, _ = load_parameters(net, config, checkpoint)
    embeddings = torch.zeros(1, (new // 4) ** 2 + 2, 6)
    expected = model.deit.embeddings.interpolate_pos_encoding(embeddings, new, new)[0].detach().numpy()
    ours = parameters["backbone/embeddings/position/embedding"]
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    np.testing.assert_array_equal(ours[:2], tensors["deit.embeddings.position_embeddings"][0, :2])


def test_positions_of_the_same_grid_stay_and_constant_ones_stay_constant():
    positions = np.random.default_rng(0).normal(size=(1 + 12, 5)).astype(np.float32)
    same = interpolate_positions(positions, tokens=1, old=(3, 4), new=(3, 4))
    np.testing.assert_array_equal(same, positions)
    flat = interpolate_positions(np.ones((13, 5), np.float32), tokens=1, old=(3, 4), new=(7, 2))
    np.testing.assert_allclose(flat, np.ones((15, 5)), rtol=1e-6)


def test_a_checkpoint_of_deit_with_a_teacher_gives_the_head_of_its_class_token(tmp_path):
    config = image_parity.EXAMPLES["deit"]
    torch_config = transformers.AutoConfig.for_model(**config.to_hf(), num_labels=image_parity.LABELS)
    tensors = image_parity.saved_tensors(
        transformers.DeiTForImageClassificationWithTeacher(torch_config), tmp_path
    )
    _, abstract = image_parity.make_classifier(config, PLAIN_RUNTIME)
    table = FAMILIES["deit"].table_with_head(HeadKind.IMAGE, config)
    parameters, report = load_weights(table, tensors, abstract)
    np.testing.assert_array_equal(parameters["head/kernel"], tensors["cls_classifier.weight"].T)
    assert report.ignored == ["distillation_classifier.bias", "distillation_classifier.weight"]
    labels = {number: label for number, label in enumerate(LABELS[::-1])}
    shape = dataclasses.replace(config, image_size=(16, 16)).to_hf()
    torch_config = transformers.AutoConfig.for_model(**shape, id2label=labels)
    model = transformers.DeiTForImageClassificationWithTeacher(torch_config)
    model.save_pretrained(tmp_path / "stored")
    settings, stored = make_settings(), json.loads((tmp_path / "stored/config.json").read_text())
    checkpoint = PretrainedModel("stored", tmp_path / "stored", stored, processor=None)
    parameters, line = load_parameters(network(settings, stored), settings, checkpoint)
    assert "newly initialized: head" not in (line or "")
    np.testing.assert_array_equal(
        parameters["head/kernel"], model.cls_classifier.weight.detach().numpy().T[:, ::-1]
    )


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("vit", "ViTModel"),  # with a pooler, as google/vit-base-patch16-224-in21k
        ("vit", "ViTForMaskedImageModeling"),
        ("deit", "DeiTModel"),
        ("resnet basic", "ResNetModel"),
        ("resnet bottleneck", "ResNetForImageClassification"),
    ],
)
def test_checkpoints_without_a_head_or_with_other_labels_give_all_but_the_head(name, architecture, tmp_path):
    shape = dataclasses.replace(image_parity.EXAMPLES[name], image_size=(16, 16))
    torch_config = transformers.AutoConfig.for_model(**shape.to_hf(), num_labels=7)
    folder = tmp_path / "stored"
    getattr(transformers, architecture)(torch_config).save_pretrained(folder)
    config, stored = make_settings(), json.loads((folder / "config.json").read_text())
    net = network(config, stored)
    checkpoint = PretrainedModel(str(folder), folder, stored, processor=None)
    parameters, line = load_parameters(net, config, checkpoint)
    assert line.endswith("label 4 is new") and parameters["head/kernel"].shape[1] == len(LABELS)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    table = FAMILIES[shape.model_type].table_with_head(HeadKind.IMAGE, net.model_config)
    backbone = {path: leaf for path, leaf in net.abstract.items() if not path.startswith("head/")}
    expected, _ = load_weights(table, image_parity.saved_tensors(model, tmp_path / "theirs"), backbone)
    for path, value in expected.items():
        np.testing.assert_array_equal(parameters[path], value, err_msg=path)


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("resnet", {"depths": [1, 2]}, "depths has 2 stages, but hidden_sizes 4"),
        ("resnet", {"layer_type": "wide"}, "layer_type is 'wide'; expected one of basic, bottleneck"),
        ("resnet", {"num_channels": 1}, "num_channels is 1, but only 3 is supported"),
        ("resnet", {"depths": "3463"}, "depths is '3463'; expected 1 to 16 numbers"),
        (
            "vit",
            {"patch_size": 300},
            "image_size is 224, but patch_size 300; expected images that are larger",
        ),
        ("vit", {"image_size": [224, 0]}, "image_size is 0; expected a whole number from 1 to 16,384"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(model_type, change, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        FAMILIES[model_type].config_class.from_hf({"model_type": model_type} | change)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_adapters_of_texts_are_refused(method):
    config = make_settings(
        **{"adapter.method": method, "model.checkpoint": "new:vit", "model.init": "scratch"}
    )
    with pytest.raises(
        UserError, match=f"'{method}' puts vectors before texts, and the model_type 'vit' reads images"
    ):
        describe_pretrained_model(config, ["vit"])


def test_flops_of_frozen_stages_are_those_of_gradients_that_are_computed():
    """Of a stem and stages with nothing trained below, a third; of those above trained ones, two thirds."""
    net = network(make_settings(16), RESNET.to_hf())
    stages = {
        number: [name for name in net.roles if name.startswith(f"backbone/stages/{number}/")]
        for number in (0, 1)
    }
    stem = [name for name in net.roles if name.startswith("backbone/stem/")]

    def flops(frozen):
        return net.train_flops_per_token(1, frozen=frozen)

    def forward_flops(names):
        kernels = [name for name in names if net.roles[name].kind is Kind.KERNEL]
        return sum(2 * net.abstract[name].size * net.roles[name].uses for name in kernels)

    below = stem + stages[0]
    assert flops([]) - flops(stem) == 2 * forward_flops(stem)
    assert flops([]) - flops(below) == 2 * forward_flops(below)
    assert flops([]) - flops(stages[1]) == forward_flops(stages[1])
