"""Defines RoBERTa (Liu et al., 2019): BERT's network, whose positions are numbered from behind the padding token's id.

XLM-R (Conneau et al., 2020) and CamemBERT (Martin et al., 2020) are the same network. A row holds one or several texts,
called segments. Attention stays within each.
"""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, Pooler, make_encoder_layers, run_encoder
from jaxft.models.roberta.config import RobertaConfig


class Roberta(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self,
        config: RobertaConfig,
        runtime: Runtime = PLAIN_RUNTIME,
        *,
        pooler: bool = False,
        rngs: nnx.Rngs,
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
            token_types=config.type_vocab_size,
            first_position=config.first_position,
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
