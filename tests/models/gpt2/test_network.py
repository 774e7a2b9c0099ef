"""GPT-2: packing, scanning, rematerialisation and splitting of batches leave hidden states and gradients alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.gpt2.network import GPT2
from tests.models.backbones import (
    SEGMENTS,
    TINY,
    assert_bfloat16_is_close,
    assert_packed_is_unpacked,
    assert_scan_and_remat_agree,
    configure,
    random_batch,
)

# A large initializer_range, so that attention is far from uniform.
CONFIG = GPT2Config(**TINY, initializer_range=0.3, scale_by_inverse_layer=True)


@functools.cache
def split(**options):
    graph, state = nnx.split(GPT2(*configure(CONFIG, **options), rngs=nnx.Rngs(0)))
    return graph, nnx.to_pure_dict(state)


@functools.cache
def compiled(**options):
    """Returns a jitted function of a plain dict of parameters to (gradients of the next tokens' loss, logits)."""
    graph, _ = split(**options)

    def loss(parameters, batch, seed):
        backbone = nnx.merge(graph, parameters)
        ids, segments = batch["input_ids"], batch["segment_ids"]
        logits = backbone.compute_logits(backbone(Inputs.from_batch(batch), seed))
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], axis=-1)[..., 0]
        weights = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
        return -(scores * weights).sum(), logits

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def forward(**options):
    """Returns a jitted function to logits alone, which compiles in a fraction of the time."""
    graph, _ = split(**options)

    def logits(parameters, batch, seed):
        backbone = nnx.merge(graph, parameters)
        return backbone.compute_logits(backbone(Inputs.from_batch(batch), seed))

    return jax.jit(logits)


@settings(max_examples=12)
@given(st.tuples(SEGMENTS, SEGMENTS), st.integers(0, 10**6))
def test_packed_is_unpacked_in_logits_and_gradients(rows, seed):
    assert_packed_is_unpacked(compiled(), split()[1], rows, seed, atol=5e-5)


def test_a_position_knows_nothing_of_later_ones():
    _, parameters = split()
    batch = random_batch(2)
    changed = batch | {"input_ids": batch["input_ids"].copy()}
    changed["input_ids"][:, 6] = (changed["input_ids"][:, 6] + 1) % CONFIG.vocab_size
    before, after = (forward()(parameters, b, None) for b in (batch, changed))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before[:, 6] - after[:, 6]).max(axis=-1) > 0.01).all()


@pytest.mark.sweep  # the stack of layers is BERT's, whose test it is too
def test_scan_unrolled_and_every_remat_policy_agree_and_remat_saves_memory():
    """Dropout is on: the masks that the backward pass computes again must be the forward pass's."""
    assert_scan_and_remat_agree(compiled, split()[1], atol=5e-5)


@pytest.mark.parametrize("site", ["embedding_dropout", "hidden_dropout", "attention_dropout"])
def test_each_dropout_has_its_rate_and_a_row_keeps_its_masks_in_any_microbatch(site):
    rates = {"embedding_dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0} | {site: 0.2}
    _, parameters = split()
    step, batch, seed = forward(**rates), random_batch(4), jnp.uint32(9)
    expected = step(parameters, batch, DropoutSeed(seed, jnp.int32(0)))
    assert np.abs(expected - step(parameters, batch, DropoutSeed(seed + 1, jnp.int32(0)))).max() > 0.01
    last_row = {name: value[3:] for name, value in batch.items()}
    np.testing.assert_allclose(
        step(parameters, last_row, DropoutSeed(seed, jnp.int32(3)))[0], expected[3], atol=5e-5
    )


def test_bfloat16_computes_close_to_float32():
    assert_bfloat16_is_close(forward, split()[1], None)


def test_new_weights_into_the_residual_stream_start_smaller_with_depth():
    _, parameters = split(num_layers=8)
    layers = parameters["layers"]
    for kernel, deviation in (
        (layers["attention"]["query"]["kernel"], 0.3),
        (layers["mlp"]["up"]["kernel"], 0.3),
        (layers["attention"]["output"]["kernel"], 0.3 / 4),
        (layers["mlp"]["down"]["kernel"], 0.3 / 4),
    ):
        assert float(kernel.std()) == pytest.approx(deviation, rel=0.1)
        assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize("wrong", [{"num_heads": 5}, {"activation": "selu"}, {"remat": "some"}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        GPT2(*configure(CONFIG, **wrong), rngs=nnx.Rngs(0))
