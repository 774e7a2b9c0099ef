"""GPT-2: packing, scanning, rematerialisation and splitting of batches leave hidden states and gradients alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft import paths
from jaxft.models.gpt2 import GPT2
from jaxft.models.layers import DropoutSeed

LENGTH = 12
SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 40,
    "max_positions": LENGTH,
    "activation": "gelu_tanh",
    "layer_norm_eps": 1e-5,
    "embedding_dropout": 0.1,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.3,  # large, so that attention is far from uniform
    "scale_by_inverse_layer": True,
}


@functools.cache
def split(**options):
    graph, state = nnx.split(GPT2(**(SIZES | options), rngs=nnx.Rngs(0)))
    return graph, nnx.to_pure_dict(state)


@functools.cache
def compiled(**options):
    """Gradients of the summed loss of next tokens, and logits, jitted over a plain dict of parameters."""
    graph, _ = split(**options)

    def loss(parameters, batch, seed):
        body = nnx.merge(graph, parameters)
        ids, segments = batch["input_ids"], batch["segment_ids"]
        logits = body.attend(body(ids, segments, batch["positions"], jnp.zeros_like(ids), seed))
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], axis=-1)[..., 0]
        weights = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
        return -(scores * weights).sum(), logits

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def forward(**options):
    """Logits alone, which compile in a fraction of the time."""
    graph, _ = split(**options)

    def logits(parameters, batch, seed):
        body, ids = nnx.merge(graph, parameters), batch["input_ids"]
        return body.attend(body(ids, batch["segment_ids"], batch["positions"], jnp.zeros_like(ids), seed))

    return jax.jit(logits)


def random_batch(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of two segments and some padding."""
    rng = np.random.default_rng(seed)
    border, end = rng.integers(2, 6, (rows, 1)), rng.integers(7, LENGTH + 1, (rows, 1))
    place = np.arange(LENGTH)[None, :]
    return {
        "input_ids": rng.integers(0, SIZES["vocab_size"], (rows, LENGTH)).astype(np.int32),
        "segment_ids": np.where(place < border, 1, np.where(place < end, 2, 0)).astype(np.int32),
        "positions": np.where(place < border, place, place - border).astype(np.int32),
    }


def assert_same(ours, theirs, rtol=2e-4, atol=2e-5):
    for path, value in paths.flatten(theirs).items():
        scale = np.abs(np.asarray(value)).max()
        np.testing.assert_allclose(
            paths.flatten(ours)[path], value, atol=atol + rtol * scale, rtol=0, err_msg=path
        )


SEGMENTS = st.lists(st.integers(1, LENGTH), min_size=0, max_size=4).filter(lambda x: sum(x) <= LENGTH)


@settings(max_examples=12, deadline=None)
@given(st.tuples(SEGMENTS, SEGMENTS), st.integers(0, 10**6))
def test_packed_is_unpacked_in_logits_and_gradients(rows, seed):
    rng = np.random.default_rng(seed)
    names = ("input_ids", "segment_ids", "positions")
    packed = {name: np.zeros((2, LENGTH), np.int32) for name in names}
    alone = {name: np.zeros((8, LENGTH), np.int32) for name in names}
    where = []
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths, start=1):
            ids = rng.integers(0, SIZES["vocab_size"], length)
            for name, value in (("input_ids", ids), ("positions", np.arange(length))):
                packed[name][row, start : start + length] = value
                alone[name][len(where), :length] = value
            packed["segment_ids"][row, start : start + length] = segment
            alone["segment_ids"][len(where), :length] = 1
            where.append((row, start, length))
            start += length
    _, parameters = split()
    packed_gradients, packed_logits = compiled()(parameters, packed, None)
    alone_gradients, alone_logits = compiled()(parameters, alone, None)
    for index, (row, start, length) in enumerate(where):
        np.testing.assert_allclose(
            packed_logits[row, start : start + length], alone_logits[index, :length], atol=5e-5
        )
    assert np.isfinite(packed_logits).all()
    assert_same(packed_gradients, alone_gradients)


def test_a_position_knows_nothing_of_later_ones():
    _, parameters = split()
    batch = random_batch(2)
    changed = batch | {"input_ids": batch["input_ids"].copy()}
    changed["input_ids"][:, 6] = (changed["input_ids"][:, 6] + 1) % SIZES["vocab_size"]
    before, after = (forward()(parameters, b, None) for b in (batch, changed))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before[:, 6] - after[:, 6]).max(axis=-1) > 0.01).all()


def test_scan_unrolled_and_every_remat_policy_agree_and_remat_saves_memory():
    """With dropout on: the masks computed again in the backward pass must be the forward pass's."""
    _, parameters = split()
    batch, seed = random_batch(64), DropoutSeed(jnp.uint32(5), jnp.int32(0))

    def compute(**options):
        executable = compiled(**options).lower(parameters, batch, seed).compile()
        return *executable(parameters, batch, seed), executable.memory_analysis().temp_size_in_bytes

    plain_gradients, plain_logits, plain_memory = compute()
    memory = {}
    for remat, unroll in [("none", True), ("dots", False), ("full", False), ("full", True)]:
        gradients, logits, memory[remat, unroll] = compute(remat=remat, unroll=unroll)
        np.testing.assert_allclose(logits, plain_logits, atol=5e-5)
        assert_same(gradients, plain_gradients)
    assert memory["full", False] < memory["dots", False] < plain_memory


@pytest.mark.parametrize("site", ["embedding_dropout", "hidden_dropout", "attention_dropout"])
def test_each_dropout_has_its_rate_and_a_row_keeps_its_masks_in_any_microbatch(site):
    rates = {"embedding_dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0} | {site: 0.2}
    _, parameters = split()
    step, batch, seed = forward(**rates), random_batch(4), jnp.uint32(9)
    whole = step(parameters, batch, DropoutSeed(seed, jnp.int32(0)))
    assert np.abs(whole - step(parameters, batch, DropoutSeed(seed + 1, jnp.int32(0)))).max() > 0.01
    one = {name: value[3:] for name, value in batch.items()}
    np.testing.assert_allclose(step(parameters, one, DropoutSeed(seed, jnp.int32(3)))[0], whole[3], atol=5e-5)


def test_bfloat16_computes_close_to_float32():
    _, parameters = split()
    batch = random_batch(8)
    exact = forward()(parameters, batch, None)
    logits = forward(dtype=jnp.bfloat16)(parameters, batch, None)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact)[batch["segment_ids"] > 0].max()
    assert 0 < error < 0.05 * np.abs(exact).max()


def test_new_weights_into_the_residual_stream_start_smaller_with_depth():
    _, parameters = split(num_layers=8)
    layers = parameters["layers"]
    for kernel, wanted in (
        (layers["attention"]["query"]["kernel"], 0.3),
        (layers["mlp"]["up"]["kernel"], 0.3),
        (layers["attention"]["output"]["kernel"], 0.3 / 4),
        (layers["mlp"]["down"]["kernel"], 0.3 / 4),
    ):
        assert float(kernel.std()) == pytest.approx(wanted, rel=0.1)
        assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize("wrong", [{"num_heads": 5}, {"activation": "selu"}, {"remat": "some"}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        GPT2(**(SIZES | wrong), rngs=nnx.Rngs(0))
