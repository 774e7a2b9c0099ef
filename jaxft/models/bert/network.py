"""Defines BERT (Devlin et al., 2019): the transformer encoder of Vaswani et al. (2017), section 3.1, over packed rows.

The network is the paper's. Three embeddings are summed and normalized. Then each layer applies self-attention and an
MLP; dropout, a residual connection and LayerNorm follow each of them ("post-norm"). Three arrangements differ from the
paper, with the same result:

- A row holds one or several texts, called segments, and attention stays within each segment.
- Outside of attention, activations are flat, `[R * L, D]`.
- The layers are one module with stacked parameters, `[num_layers, ...]`, and run in a loop.

In shapes, R is the number of rows, L the number of positions in a row, and D the hidden size.
"""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Embeddings, Pooler, make_encoder_layers, run_encoder
from jaxft.models.bert.config import BertConfig


class Bert(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self, config: BertConfig, runtime: Runtime = PLAIN_RUNTIME, *, pooler: bool = False, rngs: nnx.Rngs
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
            positions=config.max_positions,
            token_types=config.type_vocab_size,
            rngs=rngs,
        )
        self.layers = make_encoder_layers(config, runtime, rngs=rngs)
        if pooler:
            self.pooler = Pooler(config, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`.

        States at padding, segment 0, are undefined. States that `inputs.output_positions` leaves out are zero.

        Args:
          inputs: the batch's arrays.
          dropout: the seed of dropout; None for no dropout.
        """
        x = self.embeddings(inputs, dropout)
        return run_encoder(self.layers, x, inputs, dropout, self.config, self.runtime)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return self.pooler(x)
