"""Tests that a last layer of only the positions that a loss reads changes no loss and no gradient, dropout on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.data.batching.output_positions import (
    FIRST_TOKENS,
    LABELLED_TOKENS,
    LAST_TOKENS,
    select_positions,
)
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.layers.heads.sequence import SequenceClassifier
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.models.bert.config import BertConfig
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.modernbert.config import ModernBertConfig
from jaxft.models.registry import make_backbone
from tests.models.backbones import LABELS, LENGTH, VOCABULARY, assert_same, configure, random_batch

ROWS = 6
TOKENS = ("tokens", "windows")  # of a BERT and of a ModernBERT
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
MODERNBERT = ModernBertConfig(
    **{name: value for name, value in SHAPE.items() if name != "hidden_dropout"},
    embedding_dropout=0.2,
    mlp_dropout=0.2,
    local_attention=4,
)


def make(kind: str, **options) -> nnx.Module:
    rngs = nnx.Rngs(0)
    head = {"num_labels": LABELS, "dropout": 0.2, "initializer_range": 0.3, "rngs": rngs}
    family = {"words": GPT2, "last": GPT2, "windows": MODERNBERT}.get(kind, BERT)
    config, runtime = configure(family, **{"unroll": True} | options)
    pooler = {"pooler": True} if kind == "pooler" else {}
    backbone = make_backbone(config, runtime, rngs=rngs, **pooler)
    if kind == "words":
        return LanguageModel(backbone)
    if kind in TOKENS:
        return TokenClassifier(backbone, **head)
    return SequenceClassifier(backbone, pool=kind, **head)


def loss_of(kind: str, model: nnx.Module, batch: dict, weights: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns a loss of some positions' outputs, and these outputs."""
    inputs = Inputs.from_batch(batch)
    seed = DropoutSeed(jnp.uint32(3), jnp.int32(5))
    if kind in (*TOKENS, "words"):
        outputs = model(inputs, seed)
    else:
        starts = np.stack([np.zeros(ROWS), (batch["segment_ids"] == 1).sum(1)], 1).astype(np.int32)
        outputs, weights = model(inputs, starts, dropout=seed), np.ones((ROWS, 2))
    outputs = jnp.where(weights[..., None] > 0, jnp.tanh(outputs), 0)
    return (outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)).sum(), outputs


# The stack of layers is the same for all kinds; "pooler" reads the same tokens as "cls".
CASES = [(kind, {}) for kind in (*TOKENS, "words", "cls", "last")]
SWEPT_CASES = [
    ("pooler", {}),
    *(("tokens", o) for o in ({"unroll": False}, {"num_layers": 1}, {"remat": "full"})),
]
CASES += [pytest.param(*case, marks=pytest.mark.sweep) for case in SWEPT_CASES]
RULES = {"tokens": LABELLED_TOKENS, "windows": LABELLED_TOKENS, "words": LABELLED_TOKENS, "last": LAST_TOKENS}


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_outputs_that_nobody_reads_are_left_out(kind, options):
    """With as few positions as there may be, and for one kind with some more, in two groups of rows."""
    batch = random_batch(ROWS)
    rng = np.random.default_rng(0)
    weights = ((rng.random((ROWS, LENGTH)) < 0.4) * (batch["segment_ids"] > 0)).astype(np.float32)
    mask = RULES.get(kind, FIRST_TOKENS).mask(batch | {"weights": weights})
    assert kind in (*TOKENS, "words") or (mask.sum(1) == 2).all()  # of each segment one
    size = {name: value for name, value in options.items() if name == "num_layers"}
    parameters = nnx.to_pure_dict(nnx.state(jax.jit(lambda: make(kind, **size))()))

    def lowered(more, **options):
        graph, _ = nnx.split(nnx.eval_shape(lambda: make(kind, **options)))

        def loss(parameters):
            return loss_of(kind, nnx.merge(graph, parameters), batch | more, weights)

        return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(parameters)

    def selected(groups, spare=0):
        masks = mask.reshape(groups, -1)
        return {"output_positions": select_positions(masks, masks.sum(1).max() + spare)}

    reference = lowered({}, **size)
    programs = [lowered(selected(1), **options)]
    if kind == "tokens" and not options:
        programs.append(lowered(selected(2, spare=5)))
    (_, expected), expected_gradients = reference.compile()(parameters)
    for program in programs:
        (_, outputs), gradients = program.compile()(parameters)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        assert_same(gradients, expected_gradients)
    if not options:
        flops = [program.cost_analysis()["flops"] for program in (*programs, reference)]
        assert flops == sorted(set(flops))


def test_no_position_that_is_read_is_dropped():
    mask = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(select_positions(mask, 3), [[1, 3, 0], [0, 1, 2]])
    with pytest.raises(ValueError, match="a loss reads 2 positions of a group, but there is room for 1"):
        select_positions(mask, 1)
