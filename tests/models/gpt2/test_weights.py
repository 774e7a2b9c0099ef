"""GPT-2 against torch: logits, gradients, and files that come back bit for bit."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from jaxft.errors import UserError
from jaxft.hub.fields import make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.layers.inputs import Inputs
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.gpt2 import weights as gpt2_weights
from jaxft.models.gpt2.network import GPT2
from tests.models.parity import assert_gradients_equal_torch, randomize


def tiny_config(seed: int, **fields) -> GPT2Config:
    """Returns the config of a GPT-2 of odd sizes, whose weights are large enough for all of them to matter."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    vocabulary = int(rng.integers(20, 60))
    sizes = {
        "vocab_size": vocabulary,
        "n_embd": heads * int(rng.integers(3, 9)),
        "n_layer": int(rng.integers(2, 4)),
        "n_head": heads,
        "n_positions": int(rng.integers(11, 30)),
        "layer_norm_epsilon": float(rng.choice([1e-6, 1e-5])),
        "initializer_range": 0.2,
        "bos_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 1,
    }
    return GPT2Config(**(sizes | fields))


def save_torch(config, seed, folder, kind=GPT2LMHeadModel):
    """Writes the folder of a random torch model; returns both."""
    model = kind._from_config(config, attn_implementation="eager")  # the only one that upcasts when told
    randomize(model, seed)
    model.eval().save_pretrained(folder)
    return model, folder


def load(folder):
    """Returns (graph, parameters by path, report) of a language model with a folder's weights."""
    config = gpt2_config.GPT2Config.from_hf(read_config(folder))
    graph, state = nnx.split(nnx.eval_shape(lambda: LanguageModel(GPT2(config, rngs=nnx.Rngs(0)))))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    return graph, *load_weights(gpt2_weights.TABLE, open_tensors(folder), abstract, source=str(folder))


def random_batch(config, rows=3, length=11, seed=0):
    """Returns rows of one segment each, of several lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[length], rng.integers(2, length + 1, rows - 1)])
    return {
        "input_ids": rng.integers(0, config["vocab_size"], (rows, length)).astype(np.int32),
        "segment_ids": (np.arange(length)[None, :] < lengths[:, None]).astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }


def our_logits_and_gradients(graph, parameters, batch):
    def loss(tree):
        backbone = nnx.merge(graph, tree).backbone
        ids, segments = batch["input_ids"], batch["segment_ids"]
        logits = backbone.compute_logits(
            backbone(Inputs(ids, segments, batch["positions"], jnp.zeros_like(ids)))
        )
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], axis=-1)[..., 0]
        return -(scores * segments[:, 1:]).sum(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(parameter_paths.unflatten(parameters))
    return np.asarray(logits), parameter_paths.flatten(gradients)


def torch_logits_and_gradients(model, batch):
    ids, mask = torch.tensor(batch["input_ids"]).long(), torch.tensor(batch["segment_ids"])
    logits = model(input_ids=ids, attention_mask=mask).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    (losses * mask[:, 1:]).sum().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return logits.detach().numpy(), gradients


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True, "activation_function": "gelu", "n_inner": 17},
        {
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "activation_function": "relu",
        },
    ],
    ids=lambda fields: "+".join(fields) or "plain",
)
def test_logits_and_gradients_are_torchs_and_files_come_back(fields, tmp_path):
    seed = len(str(fields))
    model, folder = save_torch(tiny_config(seed, **fields), seed, tmp_path / "in")
    config = read_config(folder)
    graph, parameters, report = load(folder)
    assert not report.new and not report.ignored
    batch = random_batch(config, seed=seed)
    ours, our_gradients = our_logits_and_gradients(graph, parameters, batch)
    theirs, their_gradients = torch_logits_and_gradients(model, batch)
    is_token = batch["segment_ids"] > 0
    assert np.abs(theirs[is_token]).max() > 0.5
    np.testing.assert_allclose(ours[is_token], theirs[is_token], atol=1e-4, rtol=0)
    assert_gradients_equal_torch(gpt2_weights.TABLE, our_gradients, their_gradients, parameters)

    exported = tmp_path / "out"
    write_model_folder(
        exported,
        save_weights(gpt2_weights.TABLE, parameters),
        make_exported_config(config, "GPT2LMHeadModel"),
    )
    original, back = (load_file(path / "model.safetensors") for path in (folder, exported))
    assert original.keys() == back.keys()
    assert all(back[name].tobytes() == tensor.tobytes() for name, tensor in original.items())
    assert read_config(exported) == config
    reloaded, loading = GPT2LMHeadModel.from_pretrained(exported, output_loading_info=True)
    assert not any(loading.values())
    assert reloaded.lm_head.weight is reloaded.transformer.wte.weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reloaded.parameters(), strict=True))


@functools.cache
def tiny_tensors() -> tuple[dict, dict]:
    """Returns (config, tensors) of a random GPT-2, to build odd checkpoints from."""
    model = GPT2LMHeadModel(tiny_config(5))
    randomize(model, 5)
    tensors = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    return model.config.to_dict(), tensors


def write(folder, tensors, **changes):
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_tensors()[0] | changes))
    return folder


def test_prefix_mask_buffers_and_the_tied_head_do_not_matter(tmp_path):
    tensors = tiny_tensors()[1]
    assert "lm_head.weight" in tensors
    _, plain, report = load(write(tmp_path / "plain", tensors))
    assert report.ignored == ["lm_head.weight"]
    bare = {n.removeprefix("transformer."): t for n, t in tensors.items() if n != "lm_head.weight"}
    masks = {
        "h.0.attn.bias": np.tri(9, dtype=np.uint8)[None, None],
        "h.1.attn.masked_bias": np.array([-1e4], np.float32),
    }
    _, parameters, report = load(write(tmp_path / "bare", bare | masks))
    assert sorted(report.ignored) == sorted(masks)
    assert all(np.array_equal(parameters[path], value) for path, value in plain.items())


def test_another_tasks_head_is_ignored_and_another_buffer_is_not(tmp_path):
    _, folder = save_torch(tiny_config(6, num_labels=3), 6, tmp_path / "in", GPT2ForSequenceClassification)
    assert load(folder)[2].ignored == ["score.weight"]
    odd = write(tmp_path / "odd", tiny_tensors()[1] | {"transformer.h.0.attn.gate": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"has a tensor 'transformer\.h\.0\.attn\.gate' \(3,\).*no parameter"):
        load(odd)


def test_a_fused_projection_of_the_wrong_width_is_named(tmp_path):
    tensors = dict(tiny_tensors()[1])
    name = "transformer.h.1.attn.c_attn.weight"
    width = tensors[name].shape[0]
    tensors[name] = np.zeros((width, 2 * width), np.float32)
    message = rf"'{name}' has the shape \({width}, {2 * width}\), but \({width}, {3 * width}\) is expected"
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "in", tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo', but only 'gpt2' is supported"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, but only True"),
        ({"add_cross_attention": True}, "add_cross_attention is True, but only False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, but only True"),
        ({"activation_function": "mish"}, r"activation_function is 'mish', but only \['gelu', .*'tanh'\]"),
        ({"n_head": 7, "n_embd": 30}, "n_embd 30 is not a multiple of n_head 7"),
    ],
)
def test_what_a_config_asks_for_and_is_not_supported_is_named(change, message):
    with pytest.raises(UserError, match=message):
        gpt2_config.GPT2Config.from_hf(tiny_tensors()[0] | change)


def test_every_size_of_the_paper_has_its_number_of_parameters():
    for fields, millions in (
        ({}, 124.4),
        ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354.8),
        ({"n_embd": 1280, "n_layer": 36, "n_head": 20}, 774.0),
        ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1557.6),
    ):
        config = gpt2_config.GPT2Config.from_hf({"model_type": "gpt2", **fields})
        state = nnx.state(nnx.eval_shape(lambda config=config: LanguageModel(GPT2(config, rngs=nnx.Rngs(0)))))
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == pytest.approx(millions * 1e6, rel=1e-3)


def test_exported_half_precision_is_said_to_be_float32():
    config = make_exported_config(tiny_tensors()[0] | {"dtype": "float16"}, "GPT2LMHeadModel")
    assert config["dtype"] == "float32"
