"""BERT: packing, scanning, rematerialisation and splitting of batches leave logits and gradients alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft import paths
from jaxft.models.bert import Bert
from jaxft.models.heads import TokenClassifier
from jaxft.models.layers import DropoutSeed, dropout

LENGTH = 12
LABELS = 5
SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 40,
    "max_positions": LENGTH,
    "type_vocab_size": 2,
    "activation": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.2,  # large, so that attention is far from uniform
}


def make(rngs: nnx.Rngs, **options) -> TokenClassifier:
    body = Bert(**(SIZES | options), rngs=rngs)
    return TokenClassifier(body, num_labels=LABELS, dropout=0.1, initializer_range=0.2, rngs=rngs)


@functools.cache
def split(**options):
    graph, state = nnx.split(make(nnx.Rngs(0), **options))
    return graph, nnx.to_pure_dict(state)


@functools.cache
def compiled(**options):
    """Logits and the gradients of a weighted sum of them, jitted over a plain dict of parameters."""
    graph, _ = split(**options)

    def loss(parameters, batch, seed):
        logits = nnx.merge(graph, parameters)(
            batch["input_ids"], batch["segment_ids"], batch["positions"], batch["token_type_ids"], seed
        )
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], axis=-1)[..., 0]
        return -(scores * (batch["segment_ids"] > 0)).sum(), logits

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def forward(**options):
    """Logits alone, which compile in a fraction of the time."""
    graph, _ = split(**options)

    def logits(parameters, batch, seed):
        inputs = (batch[name] for name in ("input_ids", "segment_ids", "positions", "token_type_ids"))
        return nnx.merge(graph, parameters)(*inputs, seed)

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
        "token_type_ids": rng.integers(0, 2, (rows, LENGTH)).astype(np.int32),
        "labels": rng.integers(0, LABELS, (rows, LENGTH)).astype(np.int32),
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
    names = ("input_ids", "segment_ids", "positions", "token_type_ids", "labels")
    packed = {name: np.zeros((2, LENGTH), np.int32) for name in names}
    alone = {name: np.zeros((8, LENGTH), np.int32) for name in names}
    where = []
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths, start=1):
            values = {
                "input_ids": rng.integers(0, SIZES["vocab_size"], length),
                "positions": np.arange(length),
                "token_type_ids": rng.integers(0, 2, length),
                "labels": rng.integers(0, LABELS, length),
            }
            for name, value in values.items():
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
            packed_logits[row, start : start + length], alone_logits[index, :length], atol=2e-5
        )
    assert np.isfinite(packed_logits).all()
    assert_same(packed_gradients, alone_gradients)


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
        np.testing.assert_allclose(logits, plain_logits, atol=2e-5)
        assert_same(gradients, plain_gradients)
    assert memory["full", False] < memory["dots", False] < plain_memory


def test_the_scan_is_a_loop_over_layers_with_dropout_sites_of_their_own():
    model, batch = make(nnx.Rngs(0)), random_batch(2)
    seed = DropoutSeed(jnp.uint32(9), jnp.int32(0))
    inputs = [batch[name] for name in ("input_ids", "segment_ids", "positions", "token_type_ids")]
    whole = jax.jit(lambda: model.body(*inputs, seed))()
    graph, stack = nnx.split(model.body.layers)

    def loop(sites):
        x = model.body.embeddings(
            *(batch[name].ravel() for name in ("input_ids", "positions", "token_type_ids"))
        )
        x = dropout(x, SIZES["hidden_dropout"], seed, 0, rows=2)
        for index, site in enumerate(sites):
            layer = nnx.merge(graph, jax.tree.map(lambda leaf, index=index: leaf[index], stack))
            x = layer(x, batch["segment_ids"], seed, site)
        return x.reshape(whole.shape)

    np.testing.assert_allclose(whole, jax.jit(lambda: loop([1, 4]))(), atol=2e-5)
    assert np.abs(whole - jax.jit(lambda: loop([1, 1]))()).max() > 0.1


def test_a_row_has_the_same_dropout_in_any_microbatch():
    _, parameters = split()
    batch, seed = random_batch(8), jnp.uint32(9)
    whole = forward()(parameters, batch, DropoutSeed(seed, jnp.int32(0)))
    assert np.abs(whole - forward()(parameters, batch, DropoutSeed(seed + 1, jnp.int32(0)))).max() > 0.01
    for row in range(8):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        logits = forward()(parameters, one, DropoutSeed(seed, jnp.int32(row)))
        np.testing.assert_allclose(logits[0], whole[row], atol=2e-5)


def test_bfloat16_computes_close_to_float32():
    _, parameters = split()
    batch, seed = random_batch(8), DropoutSeed(jnp.uint32(9), jnp.int32(0))
    exact = forward()(parameters, batch, seed)
    logits = forward(dtype=jnp.bfloat16)(parameters, batch, seed)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact)[batch["segment_ids"] > 0].max()
    assert 0 < error < 0.05 * np.abs(exact).max()


def test_abstract_state_has_the_shapes_of_the_real_one_without_making_it():
    abstract = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[1])
    shapes = {path: leaf.shape for path, leaf in paths.flatten(abstract).items()}
    _, parameters = split()
    assert shapes == {path: leaf.shape for path, leaf in paths.flatten(parameters).items()}
    assert shapes["body/layers/attention/query/kernel"] == (2, 24, 24)
    assert shapes["body/layers/mlp/up/kernel"] == (2, 24, 40)
    assert shapes["head/kernel"] == (24, LABELS)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))


def test_layers_start_from_different_random_numbers():
    kernels = split()[1]["body"]["layers"]["mlp"]["up"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])
    assert abs(float(kernels.std()) - SIZES["initializer_range"]) < 0.02


def test_an_id_outside_the_vocabulary_is_seen_and_not_clamped():
    _, parameters = split()
    batch = random_batch(1)
    batch["input_ids"][0, 0] = SIZES["vocab_size"]
    logits = forward()(parameters, batch, None)
    assert np.isnan(logits[0, 0]).all()


@pytest.mark.parametrize("wrong", [{"num_heads": 5}, {"activation": "selu"}, {"remat": "some"}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        make(nnx.Rngs(0), **wrong)
