"""Defines MPNet (Song et al., 2020): BERT's layers, with a learned bias for the distance between query and key.

The paper's network is an encoder (Vaswani et al., 2017, section 3.1) over word and position embeddings. Its attention
adds T5's relative bias (Raffel et al., 2020, section 2.1) to scores: each head has a number for each bucket of
distances, the same in all layers. What the paper is about, masked and permuted pretraining, is no part of the network.

In shapes, H is the number of heads.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.layers.attention.interface import RelativeTerms
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Encoder
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
        # It does not decay, as in transformers' Trainer.
        self.bias = make_parameter(table, Role(Kind.BIAS))

    def __call__(self, length: int) -> RelativeTerms:
        """Returns what scores get in rows of `length` slots."""
        return RelativeTerms(bias=self.bias[...][bucket_distances(np.arange(1 - length, length))].T)


class MPNet(Encoder):
    """The encoder, without a head."""

    def __init__(
        self, config: MPNetConfig, runtime: Runtime = PLAIN_RUNTIME, *, pooler: bool = False, rngs: nnx.Rngs
    ):
        """Makes a new network of the shape `config`; `pooler` is as in `Encoder`."""

        def make_relative_bias(rngs: nnx.Rngs) -> RelativeBias:
            return RelativeBias(config, rngs=rngs)

        super().__init__(config, runtime, pooler=pooler, rngs=rngs, make_relative_bias=make_relative_bias)
