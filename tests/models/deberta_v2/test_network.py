"""Tests what DeBERTa-v2 alone has: embeddings of distances, which both products of scores read, and a convolution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    build_relative_position,
    make_log_bucket_position,
)

from jaxft.data.batching.batch import Blocks
from jaxft.data.batching.output_positions import select_positions
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.models.deberta_v2.config import DebertaV2Config
from jaxft.models.deberta_v2.network import DebertaV2, bucket_distances, index_distances
from jaxft.models.registry import FAMILIES
from tests.models import torch_parity
from tests.models.backbones import TINY, assert_same, random_batch

DISTANCES = np.arange(-2048, 2049)
# Texts that end on both sides of borders of buckets, whose width is 1 up to 4, and then grows.
LONG_ROWS = ((61, 9, 8), (17, 5, 6, 3, 33, 14))


def torch_buckets(count: int, largest: int) -> np.ndarray:
    return make_log_bucket_position(torch.tensor(DISTANCES), count, largest).long().numpy()


def test_each_distance_has_torchs_bucket():
    """Torch takes logarithms in float32. Where another rounding would give another bucket, its is one off at most."""
    checkpoints = [(256, 512), (512, 1024), (128, 512), (320, 512), (256, 1024)]
    for count, largest in checkpoints + [(count, 512) for count in range(2, 40)]:
        ours = bucket_distances(DISTANCES, count, largest)
        np.testing.assert_array_equal(ours, torch_buckets(count, largest), err_msg=f"{count} {largest}")
    rng = np.random.default_rng(0)
    for count, largest in zip(rng.integers(2, 512, 20), rng.integers(260, 4096, 20), strict=True):
        difference = np.abs(bucket_distances(DISTANCES, count, largest) - torch_buckets(count, largest))
        assert difference.max() <= 1 and difference.sum() <= 4


@pytest.mark.parametrize(("count", "largest", "length"), [(None, 7, 5), (None, 7, 12), (6, 9, 5), (6, 9, 30)])
def test_both_products_take_the_same_distances_as_torch(count, largest, length):
    """To the ends of the table, where distances are clamped."""
    config = DebertaV2Config(max_distance=largest, bucket_count=count)
    index = index_distances(config, length)
    x = torch.zeros(1, length, 1)
    [distances] = build_relative_position(x, x, count or -1, largest).numpy()
    by_query = np.clip(distances + config.span, 0, 2 * config.span - 1)
    by_key = np.clip(-distances + config.span, 0, 2 * config.span - 1)
    query, key = np.indices((length, length))
    np.testing.assert_array_equal(index[key - query + length - 1], by_query)
    np.testing.assert_array_equal(index[key - query + length - 1], by_key.T)


@pytest.mark.parametrize("seed", [0, 1])
def test_long_packed_texts_are_torchs(seed):
    """Has the options of version 3, then each distance, separate projections, a convolution, positions and types."""
    changes = {"max_positions": 61, "max_distance": 40}
    if seed == 0:
        changes |= {"bucket_count": 8, "type_vocab_size": 0, "embedding_size": None}
    config = dataclasses.replace(torch_parity.example_shape("deberta-v2", seed), **changes)
    torch_parity.assert_is_torchs(config, HeadKind.TOKEN, seed, dtype="float64", rows=LONG_ROWS)


def test_the_newer_head_of_words_behind_masks_is_torchs_too():
    """It scores words by their embeddings, whatever config.json says."""
    config = dataclasses.replace(
        torch_parity.example_shape("deberta-v2", seed=0), has_legacy_head=False, embedding_size=None
    )
    config = DebertaV2Config.from_hf(config.to_hf())
    assert config.ties_word_embeddings
    torch_parity.assert_is_torchs(config, HeadKind.MASKED, seed=0, dtype="float64")
    torch_parity.assert_file_comes_back(config, HeadKind.MASKED, seed=0)


CONFIG = DebertaV2Config(
    **TINY,
    has_distance_embeddings=True,
    products=("c2p", "p2c"),
    shares_projections=True,
    bucket_count=6,
    conv_size=3,
    hidden_dropout=0.3,
    initializer_range=0.2,
)


@pytest.mark.sweep
@pytest.mark.parametrize("num_layers", [1, 3])
def test_all_ways_of_computing_agree(num_layers):
    """In a loop, unrolled, with remat, in blocks, chunked, and at some positions only."""
    config, batch = dataclasses.replace(CONFIG, num_layers=num_layers), random_batch(4)
    batch["segment_ids"][:] = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]] * 2, 3, axis=1)  # in blocks of 6
    mask = np.random.default_rng(0).random(batch["segment_ids"].shape) < 0.4
    weights = np.where(mask & (batch["segment_ids"] > 0), 1.0, 0.0)[..., None]
    parameters = nnx.to_pure_dict(nnx.state(DebertaV2(config, rngs=nnx.Rngs(0))))

    def differentiate(runtime, **more):
        graph, _ = nnx.split(nnx.eval_shape(lambda: DebertaV2(config, runtime, rngs=nnx.Rngs(0))))
        inputs = Inputs.from_batch(jax.tree.map(jnp.asarray, batch | more))

        def loss(parameters):
            states = nnx.merge(graph, parameters)(inputs, DropoutSeed(jnp.uint32(3), jnp.int32(0))) * weights
            return (states * jnp.cos(jnp.arange(states.size)).reshape(states.shape)).sum(), states

        return jax.jit(jax.grad(loss, has_aux=True))(parameters)

    gradients, states = differentiate(Runtime())
    chosen = {"output_positions": select_positions(mask.reshape(2, -1), mask.reshape(2, -1).sum(1).max())}
    for runtime, more in (
        (Runtime(unroll=True), {}),
        (Runtime(unroll=True), chosen),
        (Runtime(remat="dots"), chosen),
        (Runtime(remat="full"), {}),
        (Runtime(blocks=Blocks(6, 0)), {}),
        (Runtime(attention="chunked"), {}),
    ):
        other_gradients, other_states = differentiate(runtime, **more)
        np.testing.assert_allclose(other_states, states, atol=1e-4)
        assert_same(other_gradients, gradients)


def test_rows_have_the_same_dropout_in_any_microbatch():
    """Covers the dropout of distances, whose masks rows share."""
    model = DebertaV2(dataclasses.replace(CONFIG, num_layers=1), rngs=nnx.Rngs(0))
    batch = random_batch(4)
    is_token = batch["segment_ids"] > 0

    @jax.jit
    def states(batch, seed, first_row):
        return model(Inputs.from_batch(batch), DropoutSeed(jnp.uint32(seed), first_row))

    both = states(batch, 1, jnp.int32(0))
    halves = [
        states({name: x[rows] for name, x in batch.items()}, 1, jnp.int32(rows.start))
        for rows in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose(both[is_token], np.concatenate(halves)[is_token], atol=1e-5)
    assert np.abs(states(batch, 2, jnp.int32(0)) - both)[is_token].max() > 0.1


def count_temporary_bytes(name: str, *, rows: int, length: int) -> int:
    """Returns the temporary memory of the gradient of a model of the base size, with dropout, from the compiler."""
    family, runtime = FAMILIES[name], Runtime(unroll=True)
    config = family.config_class.from_hf(family.new_model.make_config({"vocab_size": 1000}, length, 0))
    graph, state = nnx.split(nnx.eval_shape(lambda: family.network(config, runtime, rngs=nnx.Rngs(0))))
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def loss(state, ids, seed):
        states = nnx.merge(graph, state)(Inputs(ids, ids, ids, ids), DropoutSeed(seed, jnp.int32(0)))
        return (states * jnp.cos(jnp.arange(states.size)).reshape(states.shape)).sum()

    lowered = jax.jit(jax.grad(loss)).lower(state, ids, jax.ShapeDtypeStruct((), jnp.uint32))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.sweep
@pytest.mark.parametrize(("rows", "length"), [(8, 128), (2, 512)])
def test_a_gradient_needs_little_more_memory_than_berts(rows, length):
    bert, deberta = (count_temporary_bytes(name, rows=rows, length=length) for name in ("bert", "deberta-v2"))
    assert bert < deberta < 1.25 * bert


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type has 'p2p'; expected some of .*c2p.*, or none"),
        ({"pos_att_type": 3}, "pos_att_type has '3'"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd has 'batch_norm'; expected some of .*layer_norm"),
        (
            {"relative_attention": False},
            "pos_att_type is .* without relative_attention; that is not supported",
        ),
        ({"position_buckets": 1}, "position_buckets is 1; expected 2 or more, and less than 1022"),
        (
            {"position_buckets": 256, "max_relative_positions": 100},
            "position_buckets is 256; expected 2 or more",
        ),
        ({"max_relative_positions": -2}, "max_relative_positions is -2; expected a whole number from -1"),
        ({"type_vocab_size": -1}, "type_vocab_size is -1; expected a whole number from 0"),
        ({"conv_kernel_size": 4}, "conv_kernel_size is 4; expected an odd number"),
        ({"conv_groups": 5}, "conv_groups is 5; expected a divisor of hidden_size, 768"),
        ({"conv_act": "mish"}, "conv_act is 'mish', but only"),
        ({"pooler_hidden_size": 5}, "pooler_hidden_size is 5, but only 768 is supported"),
        ({"attention_head_size": 5}, "attention_head_size is 5, but only 64 is supported"),
    ],
)
def test_what_would_change_the_mathematics_is_refused_by_name(change, message):
    base = {"model_type": "deberta-v2", "hidden_size": 768, "num_attention_heads": 12}
    base |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": -1}
    config = DebertaV2Config.from_hf(base)
    assert DebertaV2Config.from_hf(config.to_hf()) == config
    with pytest.raises(UserError, match=message):
        DebertaV2Config.from_hf(base | change)
