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
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.layer_stacks import make_stack, run_layers
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.mlp import MLP
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, locate, scatter
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.models.bert.config import BertConfig
from jaxft.models.runtime import PLAIN_RUNTIME, Runtime


class Embeddings(nnx.Module):
    """The sum of word, position and token-type embeddings, normalized (Devlin et al., 2019, figure 2)."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        size, options = config.hidden_size, {"initializer_range": config.initializer_range, "rngs": rngs}
        self.word = Embedding(config.vocab_size, size, is_vocabulary=True, **options)
        self.position = Embedding(config.max_positions, size, **options)
        self.type = Embedding(config.type_vocab_size, size, **options)
        self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        input_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array,
        activations: NamedSharding | None,
    ) -> jax.Array:
        """Returns the embeddings, float32 `[R * L, D]`, for inputs int32 `[R * L]`, sharded as `activations` says."""
        looked_up = (self.word, input_ids), (self.type, token_type_ids), (self.position, positions)
        return self.norm(sum_embeddings(*looked_up, activations=activations))


class SelfAttention(nnx.Module):
    """Multi-head attention within segments (Vaswani et al., 2017, section 3.2.2), with its four projections."""

    def __init__(self, config: BertConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.hidden_size
        options = {
            "initializer_range": config.initializer_range,
            "layout": runtime.layout,
            "rngs": rngs,
        }
        inputs = options | {"axes": SPLIT_OUTPUTS, "reads_all_positions": True}
        self.query = Linear(size, size, **inputs)
        self.key = Linear(size, size, **inputs)
        self.value = Linear(size, size, **inputs)
        self.output = Linear(size, size, axes=SPLIT_INPUTS, **options)
        self.config, self.runtime = config, runtime

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """Returns the attention's update of `x`, before dropout and residual connection.

        Args:
          x: `[R * L, D]`.
          segment_ids: int32 `[R, L]`.
          seed: the seed of dropout; None for no dropout.
          site: the dropout site of the attention weights.
          output_positions: the N positions to compute; None for all.

        Returns:
          `[R * L, D]`, or `[N, D]` for `output_positions`.
        """
        attended = self.runtime.attention_function(
            *apply_linears(x, self.query, self.key, self.value),
            segment_ids,
            num_heads=self.config.num_heads,
            rate=self.config.attention_dropout,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class Layer(nnx.Module):
    """An encoder layer: attention and MLP, each followed by dropout, residual connection and norm."""

    def __init__(self, config: BertConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size, initializer_range = config.hidden_size, config.initializer_range
        self.attention = SelfAttention(config, runtime, rngs=rngs)
        self.attention_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.mlp = MLP(
            size,
            config.intermediate_size,
            activation=config.activation,
            initializer_range=initializer_range,
            output_range=initializer_range,
            layout=runtime.layout,
            rngs=rngs,
        )
        self.mlp_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.rate = config.hidden_dropout

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """Returns the layer's output. Arguments and shapes are those of `SelfAttention`.

        It uses the dropout sites `site` (attention weights), `site + 1` (attention) and `site + 2` (MLP).
        """
        options = {"rows": segment_ids.shape[0], "output_positions": output_positions}

        def dropout(update: jax.Array, site: int | jax.Array) -> jax.Array:
            return apply_dropout(update, self.rate, seed, site, **options)

        attended = self.attention(x, segment_ids, seed, site, output_positions)
        x = gather(x, output_positions)  # what follows needs no other positions
        x = self.attention_norm(x + dropout(attended, site + 1))
        return self.mlp_norm(x + dropout(self.mlp(x), site + 2))


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
        size = config.hidden_size
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = make_stack(lambda rngs: Layer(config, runtime, rngs=rngs), config.num_layers, rngs)
        if pooler:
            self.pooler = Linear(size, size, initializer_range=config.initializer_range, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`.

        States at padding, segment 0, are undefined. States that `inputs.output_positions` leaves out are zero.

        Args:
          inputs: the batch's arrays.
          dropout: the seed of dropout; None for no dropout.
        """
        rows, length = inputs.input_ids.shape
        # Matrix products run on flat [R * L, D]: on CPU, products of [R, L, D] take twice as long.
        ids, positions, types = inputs.input_ids, inputs.positions, inputs.token_type_ids
        x = self.embeddings(ids.ravel(), positions.ravel(), types.ravel(), self.runtime.activations)
        x = apply_dropout(x.astype(self.runtime.dtype), self.config.hidden_dropout, dropout, 0, rows=rows)
        output_positions = locate(inputs.output_positions, rows, length)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, _, site, output_positions: layer(
                x, inputs.segment_ids, dropout, site, output_positions
            ),
            count=self.config.num_layers,
            remat=self.runtime.remat,
            unroll=self.runtime.unroll,
            activations=self.runtime.activations,
            output_positions=output_positions,
        )
        return scatter(x, output_positions, rows * length).reshape(rows, length, -1)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return jnp.tanh(self.pooler(x))
