"""Defines ELECTRA (Clark et al., 2020), discriminator or generator: BERT's layers over embeddings of another width.

A row holds one or several texts, called segments. Attention stays within each.
"""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, make_encoder_layers, run_encoder
from jaxft.models.electra.config import ElectraConfig


class Electra(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(self, config: ElectraConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        self.embeddings = Embeddings(
            config,
            runtime,
            size=config.embedding_size,
            words=config.vocab_size,
            positions=config.max_positions,
            token_types=config.type_vocab_size,
            rngs=rngs,
        )
        self.has_projection = config.embedding_size != config.hidden_size
        if self.has_projection:
            self.projection = Linear(
                config.embedding_size,
                config.hidden_size,
                initializer_range=config.initializer_range,
                layout=runtime.layout,
                rngs=rngs,
            )
        self.layers = make_encoder_layers(config, runtime, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`; see `run_encoder`."""
        x = self.embeddings(inputs, dropout)
        if self.has_projection:
            x = self.projection(x)
        return run_encoder(self.layers, x, inputs, dropout, self.config, self.runtime)
