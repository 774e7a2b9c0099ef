"""Prefixes and prompts in packed rows, and in texts that are generated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.adapters.plan import merge_adapters, merge_parameters, plan_adapters
from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.generation.generator import Generator
from jaxft.generation.options import GenerationOptions
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.layers.inputs import Inputs
from jaxft.models.registry import FAMILIES
from jaxft.training import step
from tests.adapters.peft import parity
from tests.adapters.test_adapters import GPT2_SHAPE, network, trained_parameters
from tests.models import torch_parity
from tests.training import test_step

PREFIX = {"method": "prefix", "num_virtual_tokens": 3}
PROJECTED = PREFIX | {"prefix_projection": True, "encoder_hidden_size": 5}
PROMPT = {"method": "prompt", "num_virtual_tokens": 3}


INPUTS = ("input_ids", "segment_ids", "positions", "token_type_ids")


def check_packing(net, packed, alone):
    """Asserts that texts have the same loss and the same gradients in packed rows and alone, in float64."""
    parameters = {name: value.astype(jnp.float64) for name, value in trained_parameters(net).items()}
    trained = {name for name, role in net.roles.items() if net.adapters.trains(name, role)}

    def mean(trained, arrays):
        total, weight = net.task.loss(step.merge_model(net.graphdef, parameters | trained), arrays, None)
        return total / weight

    gradient = jax.jit(jax.value_and_grad(mean))
    start = {name: parameters[name] for name in trained}
    (loss, gradients), (loss_alone, gradients_alone) = (gradient(start, arrays) for arrays in (packed, alone))
    assert float(loss) == pytest.approx(float(loss_alone), rel=1e-12)
    for name in trained:
        np.testing.assert_allclose(
            gradients[name], gradients_alone[name], rtol=1e-8, atol=1e-12, err_msg=name
        )
        assert np.abs(gradients[name]).max() > 0, name


def put_prompts(packed, count: int):
    """Returns a batch in which the first slots of each segment are those of a prompt, which have no labels."""
    is_slot = (packed["positions"] < count) & (packed["segment_ids"] > 0)
    return packed | {
        "input_ids": np.where(is_slot, -1 - packed["positions"], packed["input_ids"]),
        "weights": np.where(is_slot, 0, packed["weights"]).astype(np.float32),
    }


@pytest.mark.parametrize(
    ("settings", "attention"),
    [(PROJECTED, "dense"), (PROMPT, "dense"), pytest.param(PREFIX, "chunked", marks=pytest.mark.sweep)],
)
def test_packed_texts_have_the_logits_and_gradients_of_texts_alone(settings, attention):
    with jax.enable_x64(True):
        net, packed = network(settings, dtype=jnp.dtype("float64"), attention=attention), test_step.batch(3)
        if settings is PROMPT:
            packed = put_prompts(packed, 3)
        check_packing(net, packed, test_step.unpack(packed))


def unpack_texts(packed):
    """Returns the batch of `torch_parity.random_batch` with each text in a row."""
    return {name: np.squeeze(torch_parity.unpack(packed[name][..., None]), -1) for name in INPUTS} | {
        "starts": np.zeros((6, 1), np.int32)
    }


@pytest.mark.sweep
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if HeadKind.TOKEN in FAMILIES[name].heads])
def test_texts_of_every_family_are_the_same_packed_and_alone(model_type):
    """Also in families whose distances add to scores, or that have windows."""
    config = torch_parity.example_shape(model_type, seed=1)
    base = torch_parity.make_torch(config, HeadKind.TOKEN, seed=1).state_dict()
    base = {name: tensor.numpy() for name, tensor in base.items()}
    with jax.enable_x64(True):
        ours = parity.make_ours(
            config, HeadKind.TOKEN, base, Adapter("prefix", num_virtual_tokens=2), "float64"
        )
        packed, _ = torch_parity.random_batch(config, 0)
        alone = unpack_texts(packed)
        alone["segment_ids"] = np.minimum(alone["segment_ids"], 1)
        mask = alone["segment_ids"][..., None]
        packed_logits = torch_parity.unpack(ours.logits(packed)) * mask
        np.testing.assert_allclose(packed_logits, ours.logits(alone) * mask, atol=1e-10)


def language_model(settings: dict) -> LanguageModel:
    family = FAMILIES["gpt2"]
    model = LanguageModel(family.network(GPT2_SHAPE, rngs=nnx.Rngs(1)))
    table = family.table_with_head(HeadKind.NEXT_TOKEN, GPT2_SHAPE)
    plan = plan_adapters(Adapter(**settings), family.adapter_targets, table, model)
    plan.attach(model, nnx.Rngs(2))
    for path, parameter in nnx.to_flat_state(nnx.state(model)):  # so that texts are not one token
        if path[-1] in ("kernel", "embedding"):
            parameter[...] = 15 * parameter[...]
    return model


@pytest.mark.parametrize("settings", [PREFIX, PROMPT])
def test_generated_texts_are_the_networks(settings):
    """Each token is the likeliest after what is before it, as the network without a cache says."""
    model, prompts = language_model(settings), [[3, 1, 4, 1, 5], [9, 2]]
    merge_adapters(model)  # as before all generation
    generator = Generator(model.backbone, eos=None)
    assert generator.max_positions == GPT2_SHAPE.max_positions - 3
    with pytest.raises(UserError, match="more than the model's 13 positions"):
        generator.generate(prompts, GenerationOptions(max_new_tokens=9))
    texts = [output.ids for [output] in generator.generate(prompts, GenerationOptions(max_new_tokens=8))]
    assert any(len(set(text)) > 1 for text in texts)
    for prompt, text in zip(prompts, texts, strict=True):
        slots = [-1, -2, -3] if settings is PROMPT else []
        ids = jnp.asarray([slots + prompt + text])
        length = ids.shape[1]
        inputs = Inputs(ids, jnp.ones_like(ids), jnp.arange(length)[None], jnp.zeros_like(ids))
        likeliest = model(inputs)[0].argmax(axis=-1)
        assert likeliest[len(slots) + len(prompt) - 1 : -1].tolist() == text


def test_a_prefix_is_not_merged_and_costs_products_of_queries_and_weights():
    net = network(PREFIX)
    flops = [net.train_flops_per_token(16) for net in (net, network({"method": "bitfit"}))]
    assert flops[0] - flops[1] == 6 * 2 * 3 * 16 * 2  # keys and values of 3 tokens, in two layers of width 16
    with pytest.raises(UserError, match="prefix.*cannot be merged.*--format peft"):
        merge_parameters(net.graphdef, trained_parameters(net))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            PREFIX | {"encoder_hidden_size": 5},
            "encoder_hidden_size=5 is the width of a network .* does not have",
        ),
        (PREFIX | {"r": 4}, "config.adapter.r=4 is a setting of lora and bottleneck"),
        (
            PROMPT | {"prompt_tuning_init": "TEXT"},
            "prompt_tuning_init='TEXT' with .*: expected a text with 'TEXT'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        network(settings)


def test_a_prompt_leaves_room_for_texts():
    values = {"adapter.method": "prompt", "adapter.num_virtual_tokens": 9, "data.max_length": 9}
    with pytest.raises(UserError, match="max_length=9 counts the slots of a prompt, and .*=9 leaves none"):
        test_step.config_with(**values)
