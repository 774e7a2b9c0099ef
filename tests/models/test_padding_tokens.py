"""A padding token that a text holds literally counts as in torch, where it has no position."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from jaxft.hub.weights import load_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.registry import FAMILIES
from tests.models import torch_parity


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_packed_texts_with_padding_tokens_have_torchs_logits(name):
    config = torch_parity.example_shape(name, seed=0)
    model = torch_parity.make_torch(config, HeadKind.TOKEN, 0, torch.float64)
    batch, texts = torch_parity.random_batch(config, seed=0)
    padding = model.config.pad_token_id
    for ids in (batch["input_ids"], texts["input_ids"]):
        ids[ids % 3 == 1] = padding
    is_token = texts["attention_mask"].numpy() > 0
    assert 5 < ((texts["input_ids"].numpy() == padding) & is_token).sum() < 20
    with jax.enable_x64(True):
        task, graph, abstract = torch_parity.make_abstract(
            config, HeadKind.TOKEN, Runtime(np.dtype("float64"))
        )
        abstract = {path: jax.ShapeDtypeStruct(leaf.shape, np.float64) for path, leaf in abstract.items()}
        tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        table = FAMILIES[name].table_with_head(HeadKind.TOKEN, config)
        parameters, _ = load_weights(table, tensors, abstract)
        network = nnx.merge(graph, parameter_paths.unflatten(parameters))
        ours = torch_parity.unpack(np.asarray(jax.jit(task.logits)(network, batch)))
    with torch.inference_mode():
        theirs = torch_parity.torch_logits(model, texts).numpy()
    np.testing.assert_allclose(ours[is_token], theirs[is_token], rtol=1e-8, atol=1e-10)
