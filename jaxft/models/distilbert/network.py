"""Defines DistilBERT (Sanh et al., 2019): BERT's layers, without token types, a pooler, and dropout after attention.

A row holds one or several texts, called segments. Attention stays within each.
"""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, make_encoder_layers, run_encoder
from jaxft.models.distilbert.config import DistilBertConfig


class DistilBert(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(self, config: DistilBertConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        self.embeddings = Embeddings(
            config,
            runtime,
            size=config.hidden_size,
            words=config.vocab_size,
            positions=config.max_positions,
            rngs=rngs,
        )
        self.layers = make_encoder_layers(config, runtime, drops_attention_output=False, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`; see `run_encoder`."""
        x = self.embeddings(inputs, dropout)
        return run_encoder(self.layers, x, inputs, dropout, self.config, self.runtime)
