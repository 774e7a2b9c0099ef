"""Defines MPNet (Song et al., 2020): BERT's layers, with a learned bias for the distance between query and key.

The paper's network is an encoder (Vaswani et al., 2017, section 3.1) over word and position embeddings. Its attention
adds T5's relative bias (Raffel et al., 2020, section 2.1) to scores: each head has a number for each bucket of
distances, the same in all layers. What the paper is about, masked and permuted pretraining, is no part of the network.

A row holds one or several texts, called segments. Attention stays within each. In shapes, R is the number of rows, L
the number of positions in a row, D the hidden size, and H the number of heads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, Pooler, make_encoder_layers, run_encoder
from jaxft.models.mpnet.config import BUCKETS, MPNetConfig


def bucket_distances(distances: np.ndarray) -> np.ndarray:
    """Returns the buckets of distances, whole numbers `[...]` of key - query, as transformers computes them.

    Of 32 buckets, 16 are for keys after the query. Each of 0 to 7 slots has a bucket. From 8 to 128 slots, each factor
    of sqrt(2) is one bucket, and the last also has all larger distances.
    """
    slots = np.abs(distances)
    # 8 + floor(log(slots / 8) / log(128 / 8) * 8), by the exponent of (slots / 8)^2, which has no rounding.
    exponents = np.frexp(np.square(slots / 8))[1] - 1
    return np.where(slots < 8, slots, np.minimum(8 + exponents, 15)) + 16 * (distances > 0)


class RelativeBias(nnx.Module):
    """The table `bias` of what attention's scores get for each bucket of distances, float32 `[32, H]`."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        initializer = nnx.initializers.normal(config.initializer_range)
        table = initializer(rngs.params(), (BUCKETS, config.num_heads), jnp.float32)
        self.bias = make_parameter(
            table, Role(Kind.BIAS)
        )  # which does not decay, as in transformers' Trainer

    def __call__(self, length: int) -> jax.Array:
        """Returns the bias in rows of `length` slots by key - query + length - 1, float32 `[H, 2 * length - 1]`."""
        return self.bias[...][bucket_distances(np.arange(1 - length, length))].T


class MPNet(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self, config: MPNetConfig, runtime: Runtime = PLAIN_RUNTIME, *, pooler: bool = False, rngs: nnx.Rngs
    ):
        """Makes a new network.

        Args:
          config: its shape.
          runtime: how it computes.
          pooler: whether to add the linear layer that `pool` applies to the first token's state.
          rngs: the random numbers for the initial parameters.
        """
        self.embeddings = Embeddings(
            config,
            runtime,
            size=config.hidden_size,
            words=config.vocab_size,
            positions=config.first_position + config.max_positions,
            first_position=config.first_position,
            rngs=rngs,
        )
        self.relative_bias = RelativeBias(config, rngs=rngs)
        self.layers = make_encoder_layers(config, runtime, rngs=rngs)
        if pooler:
            self.pooler = Pooler(config, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`; see `run_encoder`."""
        x = self.embeddings(inputs, dropout)
        relative_bias = self.relative_bias(inputs.input_ids.shape[1])
        return run_encoder(
            self.layers, x, inputs, dropout, self.config, self.runtime, relative_bias=relative_bias
        )

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return self.pooler(x)
