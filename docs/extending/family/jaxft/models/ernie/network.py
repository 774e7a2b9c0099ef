"""Defines ERNIE (Sun et al., 2019), an encoder with BERT's embeddings and layers, over packed rows.

A row holds one or several texts, called segments. Attention stays within each. In shapes, R is the number of rows, L
the number of positions in a row, and D the hidden size.
"""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, Pooler, make_encoder_layers, run_encoder
from jaxft.models.ernie.config import ErnieConfig


class Ernie(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self, config: ErnieConfig, runtime: Runtime = PLAIN_RUNTIME, *, pooler: bool = False, rngs: nnx.Rngs
    ):
        self.embeddings = Embeddings(
            config,
            runtime,
            size=config.hidden_size,
            words=config.vocab_size,
            positions=config.max_positions,
            token_types=config.type_vocab_size,
            rngs=rngs,
        )
        self.layers = make_encoder_layers(config, runtime, rngs=rngs)
        if pooler:
            self.pooler = Pooler(config, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`; see `run_encoder`."""
        x = self.embeddings(inputs, dropout)
        return run_encoder(self.layers, x, inputs, dropout, self.config, self.runtime)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return self.pooler(x)
