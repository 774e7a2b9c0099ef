"""Compares models with torch: random parameters, gradients by the weight table, and any family's token classifier."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from safetensors.numpy import load_file

from jaxft.hub.fields import add_labels, make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.models.registry import family_of, make_backbone, read_model_config

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Makes every parameter random: a fresh model's biases of 0 and scales of 1 would hide mix-ups."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def assert_gradients_equal_torch(table, ours, theirs, abstract):
    """Asserts that gradients equal torch's, which the table maps as it maps weights."""
    expected, _ = load_weights(table, theirs, abstract)
    total = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    for path, gradient in expected.items():
        error = np.linalg.norm(ours[path] - gradient)
        # A key's bias has no gradient in exact arithmetic, only rounding: hence the second term.
        assert error <= 1e-3 * np.linalg.norm(gradient) + 1e-6 * total, path


def save_torch(model, folder):
    """Writes a torch model's folder; returns both."""
    model.eval().save_pretrained(folder)
    return model, folder


def load_token_classifier(folder, labels=LABELS, new=()):
    """Returns (graph, parameters by path, report) of a token classifier with a folder's weights."""
    hf_config = read_config(folder)
    family, config = family_of(hf_config), read_model_config(hf_config)

    def make():
        rngs = nnx.Rngs(0)
        return TokenClassifier(
            make_backbone(config, PLAIN_RUNTIME, rngs=rngs),
            num_labels=len(labels),
            dropout=0.0,
            initializer_range=0.02,
            rngs=rngs,
        )

    graph, state = nnx.split(nnx.eval_shape(make))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    table = family.table_with_head(HeadKind.TOKEN, config)
    return graph, *load_weights(table, open_tensors(folder), abstract, new=new, source=str(folder))


def random_batch(config, rows=3, length=11, seed=0):
    """Returns rows of one segment each, of several lengths; not all tokens have labels."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[length], rng.integers(1, length + 1, rows - 1)])
    is_token = np.arange(length)[None, :] < lengths[:, None]
    return {
        # Not 0: torch gives the padding token's embedding no gradient, and no real text holds it.
        "input_ids": rng.integers(1, config["vocab_size"], (rows, length)).astype(np.int32),
        "segment_ids": is_token.astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "token_type_ids": rng.integers(0, config["type_vocab_size"], (rows, length)).astype(np.int32),
        "labels": rng.integers(0, len(LABELS), (rows, length)).astype(np.int32),
        "weights": (is_token & (rng.random((rows, length)) < 0.7)).astype(np.float32),
    }


def our_logits_and_gradients(graph, parameters, batch):
    def loss(tree):
        logits = nnx.merge(graph, tree)(Inputs.from_batch(batch))
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], axis=-1)[..., 0]
        return -(scores * batch["weights"]).sum(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(parameter_paths.unflatten(parameters))
    return np.asarray(logits), parameter_paths.flatten(gradients)


def torch_logits_and_gradients(model, batch):
    inputs = {name: torch.tensor(batch[name]).long() for name in ("input_ids", "token_type_ids")}
    logits = model(attention_mask=torch.tensor(batch["segment_ids"]), **inputs).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(batch["labels"]).long(), reduction="none"
    )
    (losses * torch.tensor(batch["weights"])).sum().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return logits.detach().numpy(), gradients


def assert_parity(model, folder):
    """Asserts that a token classifier in `folder` has the logits and gradients of `model`, which was saved there."""
    graph, parameters, report = load_token_classifier(folder)
    assert not report.new
    config = read_config(folder)
    batch = random_batch(config)
    ours, our_gradients = our_logits_and_gradients(graph, parameters, batch)
    theirs, their_gradients = torch_logits_and_gradients(model, batch)
    is_token = batch["segment_ids"] > 0
    assert np.abs(theirs[is_token]).max() > 0.05
    np.testing.assert_allclose(ours[is_token], theirs[is_token], atol=1e-4, rtol=0)
    table = family_of(config).table_with_head(HeadKind.TOKEN, read_model_config(config))
    assert_gradients_equal_torch(table, our_gradients, their_gradients, parameters)


def assert_comes_back(folder, tmp_path):
    """Asserts that saving what was loaded gives the same file and config, bit for bit; returns the folder."""
    _, parameters, _ = load_token_classifier(folder)
    config = read_config(folder)
    family = family_of(config)
    out = tmp_path / "out"
    exported = add_labels(make_exported_config(config, family.heads[HeadKind.TOKEN].architecture), LABELS)
    table = family.table_with_head(HeadKind.TOKEN, read_model_config(config))
    write_model_folder(out, save_weights(table, parameters), exported)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.tobytes() == after[name].tobytes(), name
    assert json.loads((out / "config.json").read_text()) == exported
    task_fields = {"architectures", "id2label", "label2id"}
    assert all(exported[key] == value for key, value in config.items() if key not in task_fields)
    return out
