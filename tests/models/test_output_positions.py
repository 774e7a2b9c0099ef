"""Tests that a last layer of only the positions that a loss reads changes no loss and no gradient, dropout on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.causal_lm import LanguageModel
from jaxft.layers.heads.sequence import SequenceClassifier
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.models.bert.config import BertConfig
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.registry import make_backbone
from tests.models.backbones import LABELS, LENGTH, VOCABULARY, assert_same, configure, random_batch

ROWS = 6
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 12,
    "max_positions": LENGTH,
    "layer_norm_eps": 1e-5,
    "hidden_dropout": 0.2,
    "attention_dropout": 0.2,
    "initializer_range": 0.3,
}
BERT, GPT2 = BertConfig(**SHAPE), GPT2Config(**SHAPE, activation="gelu")


def make(kind: str, **options) -> nnx.Module:
    rngs = nnx.Rngs(0)
    head = {"num_labels": LABELS, "dropout": 0.2, "initializer_range": 0.3, "rngs": rngs}
    config, runtime = configure(GPT2 if kind in ("words", "last") else BERT, **{"unroll": True} | options)
    pooler = {"pooler": True} if kind == "pooler" else {}
    backbone = make_backbone(config, runtime, rngs=rngs, **pooler)
    if kind == "words":
        return LanguageModel(backbone)
    if kind == "tokens":
        return TokenClassifier(backbone, **head)
    return SequenceClassifier(backbone, pool=kind, **head)


def loss_of(kind: str, model: nnx.Module, batch: dict, weights: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns a loss of some positions' outputs, and these outputs."""
    inputs = Inputs.from_batch(batch)
    seed = DropoutSeed(jnp.uint32(3), jnp.int32(5))
    if kind == "tokens":
        outputs = model(inputs, dropout=seed, output_mask=weights > 0)
    elif kind == "words":
        outputs = model.backbone.compute_logits(model.backbone(inputs, seed, weights > 0))
    else:
        starts = np.stack([np.zeros(ROWS), (batch["segment_ids"] == 1).sum(1)], 1).astype(np.int32)
        outputs, weights = model(inputs, starts, dropout=seed), np.ones((ROWS, 2))
    outputs = jnp.where(weights[..., None] > 0, jnp.tanh(outputs), 0)
    return (outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)).sum(), outputs


# The stack of layers is the same for all kinds.
CASES = [(kind, {}) for kind in ("tokens", "words", "pooler", "cls", "last")]
CASES += [("tokens", {"remat": "full"}), ("tokens", {"unroll": False}), ("tokens", {"num_layers": 1})]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_outputs_that_nobody_reads_are_left_out(kind, options):
    batch = random_batch(ROWS)
    rng = np.random.default_rng(0)
    weights = (rng.random((ROWS, LENGTH)) < 0.4) * (batch["segment_ids"] > 0)
    count = int(weights.sum()) if kind in ("tokens", "words") else 2 * ROWS
    size = {name: value for name, value in options.items() if name == "num_layers"}
    parameters = nnx.to_pure_dict(nnx.state(jax.jit(lambda: make(kind, **size))()))

    def lowered(most, **options):
        graph, _ = nnx.split(nnx.eval_shape(lambda: make(kind, output_count=most, **options)))

        def loss(parameters):
            return loss_of(kind, nnx.merge(graph, parameters), batch, weights)

        return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(parameters)

    programs = {most: lowered(most, **(options if most else size)) for most in (0, count, count + 5)}
    (_, outputs), gradients = programs[count].compile()(parameters)
    (_, expected), expected_gradients = programs[0].compile()(parameters)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert_same(gradients, expected_gradients)
    if not options:
        all_positions, fewest, fewer = (program.cost_analysis()["flops"] for program in programs.values())
        assert fewest < fewer < all_positions
