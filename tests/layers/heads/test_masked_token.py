"""The head of masked tokens has transformers' losses and gradients for each family, and goes back to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from jaxft.hub.fields import make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.pretrained_model import resolve_model
from jaxft.models.registry import family_of
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.masked_lm.task import MaskedLM
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from tests.models.parity import randomize

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
COMMON = SIZES | {"max_position_embeddings": 20, "initializer_range": 0.2}
# transformers' class of each family -> the sizes of a small one.
CLASSES = {
    "BertForMaskedLM": COMMON | {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "RobertaForMaskedLM": COMMON | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "pad_token_id": 1},
    "ElectraForMaskedLM": COMMON | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "embedding_size": 16},
    "MPNetForMaskedLM": COMMON | {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "DistilBertForMaskedLM": {
        "vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "activation": "relu",
        "max_position_embeddings": 20, "initializer_range": 0.2,
    },
}  # fmt: skip
SETTINGS = settings_from_config(
    {"task": "masked_lm", "data.max_length": 16, "model.dropout": 0.0, "mesh.data": 1}
)


def make_reference(name: str, ties: bool, folder):
    config_class = getattr(transformers, name).config_class
    reference = getattr(transformers, name)(config_class(**CLASSES[name], tie_word_embeddings=ties)).double()
    randomize(reference, seed=0)
    reference.eval().save_pretrained(folder)
    return reference


def make_net(hf_config, dtype=jnp.float64):
    model_config, runtime = resolve_model(SETTINGS, hf_config)
    task = MaskedLM([], SETTINGS, head_dropout=0.0)
    return make_network(
        task, model_config, dataclasses.replace(runtime, dtype=jnp.dtype(dtype)), make_mesh(SETTINGS)
    )


def make_batch(rng, has_types: bool) -> dict[str, np.ndarray]:
    """Two rows with two segments each, and padding; two of three tokens are predicted."""
    segment_ids = np.zeros((2, 16), np.int32)
    segment_ids[0, :6], segment_ids[0, 6:13], segment_ids[1, :9], segment_ids[1, 9:] = 1, 2, 1, 2
    is_first = np.diff(segment_ids, axis=1, prepend=0) != 0
    starts = np.maximum.accumulate(np.where(is_first, np.arange(16), 0), axis=1)
    return {
        "input_ids": rng.integers(5, 40, (2, 16)).astype(np.int32),
        "segment_ids": segment_ids,
        "positions": (np.arange(16) - starts).astype(np.int32),
        "token_type_ids": rng.integers(0, 2 if has_types else 1, (2, 16)).astype(np.int32),
        "labels": rng.integers(5, 40, (2, 16)).astype(np.int32),
        "weights": ((segment_ids > 0) & (rng.random((2, 16)) < 0.66)).astype(np.float32),
    }


def torch_loss(reference, batch, has_types: bool):
    """Computes the loss sum of each segment alone in a row."""
    total = 0.0
    for row in range(2):
        for segment in (1, 2):
            at = batch["segment_ids"][row] == segment
            names = ["input_ids", *(["token_type_ids"] if has_types else [])]
            inputs = {name: torch.tensor(batch[name][row][at][None]).long() for name in names}
            labels, weights = (torch.tensor(batch[name][row][at]) for name in ("labels", "weights"))
            logits = reference(**inputs).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, labels.long(), reduction="none")
            total = total + (losses * weights).sum()
    return total


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_packed_rows_have_the_loss_and_gradients_of_torch_alone(name, ties, tmp_path):
    reference = make_reference(name, ties, tmp_path / "in")
    hf_config = read_config(tmp_path / "in")
    family = family_of(hf_config)
    has_types = hf_config.get("type_vocab_size", 0) > 1
    batch = make_batch(np.random.default_rng(0), has_types)
    with jax.enable_x64(True):
        net = make_net(hf_config)
        abstract = {
            path: jax.ShapeDtypeStruct(leaf.shape, jnp.float64) for path, leaf in net.abstract.items()
        }
        table = family.table_with_head(HeadKind.MASKED)
        parameters, report = load_weights(table, open_tensors(tmp_path / "in"), abstract)
        assert ("head/decoder/kernel" in parameters) != ties and not report.new

        def loss(parameters):
            return net.task.loss(step.merge_model(net.graphdef, parameters), batch, None)

        def predict(parameters):
            model = step.merge_model(net.graphdef, parameters)
            return net.task.predict(model, batch), net.task.logits(model, batch)

        (value, weight), gradients = jax.device_get(
            jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)
        )
        (outputs, loss_sum, _), logits = jax.device_get(jax.jit(predict)(parameters))
    expected = torch_loss(reference, batch, has_types)
    expected.backward()
    assert weight == batch["weights"].sum()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-10)
    np.testing.assert_allclose(loss_sum, expected.item(), rtol=1e-6)
    named = {name: p.grad.numpy() for name, p in reference.named_parameters() if p.grad is not None}
    theirs, _ = load_weights(table, named, abstract)
    total = np.sqrt(sum(np.sum(gradient**2) for gradient in theirs.values()))
    for path, gradient in theirs.items():
        error = np.linalg.norm(gradients[path] - gradient)
        assert error <= 1e-8 * np.linalg.norm(gradient) + 1e-10 * total, path

    # The scores of the model itself, which an export is compared by, and the best words.
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    is_predicted = batch["weights"] > 0
    np.testing.assert_array_equal(outputs["is_predicted"], is_predicted)
    label = np.take_along_axis(probabilities, batch["labels"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(outputs["nll"], -np.log(label) * is_predicted, atol=1e-5)
    best = np.argsort(-probabilities, axis=-1)[..., :5]
    np.testing.assert_array_equal(outputs["words"][is_predicted], best[is_predicted])
    expected = np.take_along_axis(probabilities, best, axis=-1)[is_predicted]
    np.testing.assert_allclose(outputs["probabilities"][is_predicted], expected, atol=1e-6)

    exported = make_exported_config(hf_config, family.heads[HeadKind.MASKED].architecture)
    write_model_folder(tmp_path / "out", save_weights(table, parameters), exported)
    back, loading = getattr(transformers, name).from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float64
    )
    before, after = (
        load_file(tmp_path / "in/model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    if ties:
        assert not any(loading.values()) and before.keys() == after.keys()
    for tensor in after:
        assert before[tensor].tobytes() == after[tensor].tobytes(), tensor
    ids = torch.arange(5, 15)[None]
    torch.testing.assert_close(back(ids).logits, reference(ids).logits, rtol=1e-12, atol=1e-12)
