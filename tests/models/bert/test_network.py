"""BERT: packing, scanning, rematerialisation and splitting of batches leave logits and gradients alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers import parameter_paths
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.models.bert.config import BertConfig
from jaxft.models.bert.network import Bert
from tests.models.backbones import (
    LABELS,
    SEGMENTS,
    TINY,
    assert_bfloat16_is_close,
    assert_packed_is_unpacked,
    assert_scan_and_remat_agree,
    configure,
    random_batch,
)

CONFIG = BertConfig(**TINY, initializer_range=0.2)  # large, so that attention is far from uniform


def make_model(rngs: nnx.Rngs, **options) -> TokenClassifier:
    backbone = Bert(*configure(CONFIG, **options), rngs=rngs)
    return TokenClassifier(backbone, num_labels=LABELS, dropout=0.1, initializer_range=0.2, rngs=rngs)


@functools.cache
def split(**options):
    graph, state = nnx.split(make_model(nnx.Rngs(0), **options))
    return graph, nnx.to_pure_dict(state)


@functools.cache
def compiled(**options):
    """Returns a jitted function of a plain dict of parameters to (gradients, logits)."""
    graph, _ = split(**options)

    def loss(parameters, batch, seed):
        logits = nnx.merge(graph, parameters)(Inputs.from_batch(batch), seed)
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], axis=-1)[..., 0]
        return -(scores * (batch["segment_ids"] > 0)).sum(), logits

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def forward(**options):
    """Returns a jitted function to logits alone, which compiles in a fraction of the time."""
    graph, _ = split(**options)

    def logits(parameters, batch, seed):
        return nnx.merge(graph, parameters)(Inputs.from_batch(batch), seed)

    return jax.jit(logits)


@settings(max_examples=12)
@given(st.tuples(SEGMENTS, SEGMENTS), st.integers(0, 10**6))
def test_packed_is_unpacked_in_logits_and_gradients(rows, seed):
    assert_packed_is_unpacked(compiled(), split()[1], rows, seed, atol=2e-5)


def test_scan_unrolled_and_every_remat_policy_agree_and_remat_saves_memory():
    """Dropout is on: the masks that the backward pass computes again must be the forward pass's."""
    assert_scan_and_remat_agree(compiled, split()[1], atol=2e-5)


def test_the_scan_is_a_loop_over_layers_with_dropout_sites_of_their_own():
    model, batch = make_model(nnx.Rngs(0)), random_batch(2)
    seed = DropoutSeed(jnp.uint32(9), jnp.int32(0))
    expected = jax.jit(lambda: model.backbone(Inputs.from_batch(batch), seed))()
    graph, stack = nnx.split(model.backbone.layers)

    def loop(sites):
        x = model.backbone.embeddings(Inputs.from_batch(batch), seed)
        for index, site in enumerate(sites):
            layer = nnx.merge(graph, jax.tree.map(lambda leaf, index=index: leaf[index], stack))
            x = layer(x, batch["segment_ids"], seed, site, None)
        return x.reshape(expected.shape)

    np.testing.assert_allclose(expected, jax.jit(lambda: loop([1, 4]))(), atol=2e-5)
    assert np.abs(expected - jax.jit(lambda: loop([1, 1]))()).max() > 0.1


def test_a_row_has_the_same_dropout_in_any_microbatch():
    _, parameters = split()
    batch, seed = random_batch(8), jnp.uint32(9)
    expected = forward()(parameters, batch, DropoutSeed(seed, jnp.int32(0)))
    assert np.abs(expected - forward()(parameters, batch, DropoutSeed(seed + 1, jnp.int32(0)))).max() > 0.01
    for row in range(8):
        microbatch = {name: value[row : row + 1] for name, value in batch.items()}
        logits = forward()(parameters, microbatch, DropoutSeed(seed, jnp.int32(row)))
        np.testing.assert_allclose(logits[0], expected[row], atol=2e-5)


def test_bfloat16_computes_close_to_float32():
    assert_bfloat16_is_close(forward, split()[1], DropoutSeed(jnp.uint32(9), jnp.int32(0)))


def test_abstract_state_has_the_shapes_of_the_real_one_without_making_it():
    abstract = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))[1])
    shapes = {path: leaf.shape for path, leaf in parameter_paths.flatten(abstract).items()}
    _, parameters = split()
    assert shapes == {path: leaf.shape for path, leaf in parameter_paths.flatten(parameters).items()}
    assert shapes["backbone/layers/attention/query/kernel"] == (2, 24, 24)
    assert shapes["backbone/layers/mlp/up/kernel"] == (2, 24, 40)
    assert shapes["head/kernel"] == (24, LABELS)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))


def test_layers_start_from_different_random_numbers():
    kernels = split()[1]["backbone"]["layers"]["mlp"]["up"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])
    assert abs(float(kernels.std()) - CONFIG.initializer_range) < 0.02


def test_an_id_outside_the_vocabulary_is_seen_and_not_clamped():
    _, parameters = split()
    batch = random_batch(1)
    batch["input_ids"][0, 0] = CONFIG.vocab_size
    logits = forward()(parameters, batch, None)
    assert np.isnan(logits[0, 0]).all()


@pytest.mark.parametrize("wrong", [{"num_heads": 5}, {"activation": "selu"}, {"remat": "some"}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        make_model(nnx.Rngs(0), **wrong)
