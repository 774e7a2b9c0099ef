"""The head of ELECTRA's discriminator against transformers: it loads, has its loss and gradients, and goes back."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from transformers import ElectraConfig, ElectraForPreTraining

from jaxft.hub.fields import make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.replaced_token import ReplacedTokenModel
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.models.registry import family_of, make_backbone, read_model_config
from tests.models.parity import assert_gradients_equal_torch, random_batch, randomize, save_torch

CONFIG = ElectraConfig(
    vocab_size=40,
    embedding_size=16,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=16,
    initializer_range=0.2,
)


def test_replaced_tokens_load_learn_and_go_back(tmp_path):
    reference = ElectraForPreTraining(CONFIG)
    randomize(reference, seed=0)
    reference, folder = save_torch(reference, tmp_path / "in")
    config = read_config(folder)
    family, model_config = family_of(config), read_model_config(config)
    table = family.table_with_head(HeadKind.REPLACED, model_config)

    def make():
        backbone = make_backbone(model_config, PLAIN_RUNTIME, rngs=nnx.Rngs(0))
        return ReplacedTokenModel(backbone, rngs=nnx.Rngs(1))

    graph, state = nnx.split(nnx.eval_shape(make))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters, report = load_weights(table, open_tensors(folder), abstract)
    assert not report.new and not report.ignored

    batch = random_batch(config)
    is_token = batch["segment_ids"] > 0
    is_replaced = np.random.default_rng(1).random(is_token.shape) < 0.3

    @jax.jit
    @jax.value_and_grad
    def loss(tree):
        scores = nnx.merge(graph, tree)(Inputs.from_batch(batch))
        return -jnp.sum(jax.nn.log_sigmoid(jnp.where(is_replaced, scores, -scores)) * is_token)

    tree = parameter_paths.unflatten(parameters)
    value, gradients = loss(tree)
    inputs = {name: torch.tensor(batch[name]).long() for name in ("input_ids", "token_type_ids")}
    labels, mask = torch.tensor(is_replaced).long(), torch.tensor(is_token).long()
    their_loss = reference(attention_mask=mask, labels=labels, **inputs).loss * is_token.sum()
    their_loss.backward()
    np.testing.assert_allclose(value, their_loss.item(), rtol=1e-5)
    their_gradients = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    flat = parameter_paths.flatten(gradients)
    assert_gradients_equal_torch(table, flat, their_gradients, parameters)

    for _ in range(30):
        _, gradients = loss(tree)
        tree = jax.tree.map(lambda value, gradient: value - 0.01 * gradient, tree, gradients)
    assert loss(tree)[0] < 0.5 * value

    exported = make_exported_config(config, family.heads[HeadKind.REPLACED].architecture)
    write_model_folder(tmp_path / "out", save_weights(table, parameters), exported)
    back, loading = ElectraForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), back.parameters(), strict=True))
