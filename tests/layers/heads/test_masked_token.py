"""The loss and the best words of masked tokens are torch's, in packed rows, also if only their positions are computed.

`tests/models/test_torch_parity.py` has the logits of every family, and its files.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxft.data.batching.output_positions import select_positions
from jaxft.hub.fields import make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.pretrained_model import resolve_model
from jaxft.models.registry import family_of, read_model_config
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.masked_lm.task import MaskedLM
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from tests.models.parity import randomize

SIZES = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 20, "initializer_range": 0.2, "layer_norm_eps": 1e-5, "hidden_act": "relu",
}  # fmt: skip
SETTINGS = settings_from_config(
    {"task": "masked_lm", "data.max_length": 16, "model.dropout": 0.0, "model.unroll": "yes", "mesh.data": 1}
)


def make_batch(rng) -> dict[str, np.ndarray]:
    """Two rows with two segments each, and padding; half of the tokens are predicted."""
    segment_ids = np.zeros((2, 16), np.int32)
    segment_ids[0, :6], segment_ids[0, 6:13], segment_ids[1, :9], segment_ids[1, 9:] = 1, 2, 1, 2
    is_first = np.diff(segment_ids, axis=1, prepend=0) != 0
    starts = np.maximum.accumulate(np.where(is_first, np.arange(16), 0), axis=1)
    return {
        "input_ids": rng.integers(5, 40, (2, 16)).astype(np.int32),
        "segment_ids": segment_ids,
        "positions": (np.arange(16) - starts).astype(np.int32),
        "token_type_ids": rng.integers(0, 2, (2, 16)).astype(np.int32),
        "labels": rng.integers(5, 40, (2, 16)).astype(np.int32),
        "weights": ((segment_ids > 0) & (rng.random((2, 16)) < 0.5)).astype(np.float32),
    }


def torch_loss(reference, batch) -> torch.Tensor:
    """Computes the sum of the losses of all segments, each alone in a row."""
    total = torch.zeros((), dtype=torch.float64)
    for row, segment in np.ndindex(2, 2):
        at = batch["segment_ids"][row] == segment + 1
        arrays = {name: torch.tensor(values[row][at]) for name, values in batch.items()}
        inputs = {name: arrays[name][None].long() for name in ("input_ids", "token_type_ids")}
        logits = reference(**inputs).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, arrays["labels"].long(), reduction="none")
        total = total + (losses * arrays["weights"]).sum()
    return total


@pytest.mark.parametrize(
    ("name", "options"),
    [("BertForMaskedLM", {}), ("ElectraForMaskedLM", {"embedding_size": 16, "tie_word_embeddings": False})],
)
def test_loss_gradients_and_words_are_torchs(name, options, tmp_path):
    model_class = getattr(transformers, name)
    reference = model_class(model_class.config_class(**SIZES | options)).double()
    randomize(reference, seed=0)
    reference.eval().save_pretrained(tmp_path / "in")
    hf_config = read_config(tmp_path / "in")
    family = family_of(hf_config)
    table = family.table_with_head(HeadKind.MASKED, read_model_config(hf_config))
    batch = make_batch(np.random.default_rng(0))
    is_predicted = batch["weights"] > 0
    positions = select_positions(is_predicted.reshape(1, -1), is_predicted.sum() + 3)
    with jax.enable_x64(True):
        model_config, runtime = resolve_model(SETTINGS, hf_config)
        task = MaskedLM([], SETTINGS, head_dropout=0.0)
        runtime = dataclasses.replace(runtime, dtype=jnp.dtype("float64"))
        net = make_network(task, model_config, runtime, make_mesh(SETTINGS))
        abstract = {
            path: jax.ShapeDtypeStruct(leaf.shape, jnp.float64) for path, leaf in net.abstract.items()
        }
        parameters, report = load_weights(table, open_tensors(tmp_path / "in"), abstract)
        assert not report.new

        def loss(parameters, batch):
            return task.loss(step.merge_model(net.graphdef, parameters), batch, None)

        def predict(parameters):
            model = step.merge_model(net.graphdef, parameters)
            return task.predict(model, batch), task.logits(model, batch)

        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results = [
            jax.device_get(gradient(parameters, arrays))
            for arrays in (batch, batch | {"output_positions": positions})
        ]
        (outputs, loss_sum, _), logits = jax.device_get(jax.jit(predict)(parameters))
    expected = torch_loss(reference, batch)
    expected.backward()
    named = {name: p.grad.numpy() for name, p in reference.named_parameters() if p.grad is not None}
    theirs, _ = load_weights(table, named, abstract)
    total = np.sqrt(sum(np.sum(values**2) for values in theirs.values()))
    for (value, weight), ours in results:
        assert weight == is_predicted.sum()
        np.testing.assert_allclose(value, expected.item(), rtol=1e-10)
        for path, values in theirs.items():
            error = np.linalg.norm(ours[path] - values)
            assert error <= 1e-8 * np.linalg.norm(values) + 1e-10 * total, path

    np.testing.assert_allclose(loss_sum, expected.item(), rtol=1e-6)
    np.testing.assert_array_equal(outputs["is_predicted"], is_predicted)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    label = np.take_along_axis(probabilities, batch["labels"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(outputs["nll"], -np.log(label) * is_predicted, atol=1e-5)
    best = np.argsort(-probabilities, axis=-1)[..., :5]
    np.testing.assert_array_equal(outputs["words"][is_predicted], best[is_predicted])
    expected = np.take_along_axis(probabilities, best, axis=-1)[is_predicted]
    np.testing.assert_allclose(outputs["probabilities"][is_predicted], expected, atol=1e-6)

    # With half of the positions read: the head, and what follows attention in the last layer, take half of the FLOPs.
    # Words are scored at labels only, a share of the positions that is known, whether or not others are read too.
    kernels = {path: leaf.size for path, leaf in abstract.items() if path.endswith("kernel")}
    transform, words = kernels["head/transform/kernel"], abstract[net.vocabulary].size
    after = sum(
        kernels[f"backbone/layers/{layer}/kernel"] // 2
        for layer in ("attention/output", "mlp/up", "mlp/down")
    )
    others = sum(kernels.values()) - kernels.get("head/decoder/kernel", 0)
    attention, share = 12 * 2 * 16 * 24, SETTINGS.data.mask_probability
    for read, products in ((1.0, others), (0.5, others - (transform + after) / 2)):
        expected = 6 * (products + min(read, share) * words) + attention
        assert net.train_flops_per_token(16, read) == pytest.approx(expected, rel=1e-12)

    exported = make_exported_config(hf_config, family.heads[HeadKind.MASKED].architecture)
    write_model_folder(tmp_path / "out", save_weights(table, parameters), exported)
    loading = {"output_loading_info": True, "dtype": torch.float64}
    back, info = model_class.from_pretrained(tmp_path / "out", **loading)
    assert not any(info.values())
    ids = torch.arange(5, 15)[None]
    torch.testing.assert_close(back(ids).logits, reference(ids).logits, rtol=1e-12, atol=1e-12)
