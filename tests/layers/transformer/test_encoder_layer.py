"""An encoder layer drops attention's output only where its family does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.layers.transformer.encoder_layer import EncoderLayer, EncoderShape

SHAPE = EncoderShape(
    vocab_size=5,
    max_positions=6,
    type_vocab_size=0,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=12,
    activation="gelu",
    layer_norm_eps=1e-5,
    hidden_dropout=0.5,
    attention_dropout=0.0,
    initializer_range=0.3,
)


@pytest.mark.parametrize("drops_attention_output", [True, False])
def test_dropout_follows_attention_or_not(drops_attention_output):
    layer = EncoderLayer(
        SHAPE, PLAIN_RUNTIME, rngs=nnx.Rngs(0), drops_attention_output=drops_attention_output
    )
    layer.mlp.down.kernel[...] *= 0  # what the MLP adds is 0, dropped or not
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)
    segments = jnp.ones((1, 6), jnp.int32)
    seed = DropoutSeed(jnp.uint32(1), jnp.int32(0))
    graph, state = nnx.split(layer)
    apply = jax.jit(lambda seed: nnx.merge(graph, state)(x, segments, seed, 1, None))
    is_dropped = not np.allclose(apply(None), apply(seed))
    assert is_dropped == drops_attention_output
