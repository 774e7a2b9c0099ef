"""Runs an encoder: embeddings, then a stack of encoder layers, over packed rows.

In shapes, R is the number of rows, L the number of positions in a row, D the hidden size, and E the width of
embeddings, which is D for most families.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import locate, scatter
from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.encoder_layer import EncoderLayer, EncoderShape
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers


class Embeddings(nnx.Module):
    """The sum of word, position and token-type embeddings, normalized (Devlin et al., 2019, figure 2), with dropout.

    Args:
      config: the model's shape, for `initializer_range`, `layer_norm_eps` and `hidden_dropout`.
      runtime: how the model computes.
      size: E.
      words, positions: the number of embeddings of words and of positions.
      token_types: the number of embeddings of token types; 0 for none. With one, the types of tokens are not read.
      first_position: the embedding of the first position of a segment; 1 + the padding token's id, unless it is 0.
    """

    def __init__(
        self,
        config: EncoderShape,
        runtime: Runtime,
        *,
        size: int,
        words: int,
        positions: int,
        token_types: int = 0,
        first_position: int = 0,
        rngs: nnx.Rngs,
    ):
        make_table = functools.partial(
            Embedding, size=size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.word = make_table(words, is_vocabulary=True)
        self.position = make_table(positions)
        if token_types:
            self.type = make_table(token_types)
        self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.rate, self.runtime = config.hidden_dropout, runtime
        self.token_types, self.first_position = token_types, first_position

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the embeddings `[R * L, E]` of `runtime.dtype`. Dropout has the site 0."""
        # Matrix products run on flat [R * L, D]: on CPU, products of [R, L, D] take twice as long.
        lookups = [(self.word, inputs.input_ids.ravel())]
        if self.token_types:
            types = inputs.token_type_ids.ravel()
            lookups.append((self.type, types if self.token_types > 1 else jnp.zeros_like(types)))
        positions = inputs.positions
        if self.first_position:
            positions = skip_padding_tokens(inputs, self.first_position - 1) + self.first_position
        lookups.append((self.position, positions.ravel()))
        x = self.norm(sum_embeddings(*lookups, activations=self.runtime.activations))
        return apply_dropout(x.astype(self.runtime.dtype), self.rate, dropout, 0, rows=len(inputs.input_ids))


def skip_padding_tokens(inputs: Inputs, padding_id: int) -> jax.Array:
    """Returns the positions `[R, L]` of tokens as transformers numbers them where 0 comes after the padding token's id.

    Texts may hold the padding token literally, as "<pad>". It then has position -1, and those after it one less.
    """
    is_padding = (inputs.input_ids == padding_id).astype(jnp.int32)
    count = jnp.cumsum(is_padding, axis=1, dtype=jnp.int32)  # in the row, up to each slot
    before = jnp.where(inputs.positions == 0, count - is_padding, 0)
    before = jax.lax.cummax(before, axis=1)  # in the row before the slot's segment
    return jnp.where(is_padding, -1, inputs.positions - (count - before))


def make_encoder_layers(
    config: EncoderShape, runtime: Runtime, *, rngs: nnx.Rngs, drops_attention_output: bool = True
) -> nnx.Module:
    """Returns the layers of an encoder as one module, with parameters `[num_layers, ...]`; see `EncoderLayer`."""

    def make_layer(rngs: nnx.Rngs) -> EncoderLayer:
        return EncoderLayer(config, runtime, rngs=rngs, drops_attention_output=drops_attention_output)

    return make_stack(make_layer, config.num_layers, rngs)


def run_encoder(
    layers: nnx.Module,
    x: jax.Array,
    inputs: Inputs,
    dropout: DropoutSeed | None,
    config: EncoderShape,
    runtime: Runtime,
    *,
    relative_bias: jax.Array | None = None,
) -> jax.Array:
    """Returns the hidden states after the last layer.

    Args:
      layers: from `make_encoder_layers`.
      x: `[R * L, D]` of `runtime.dtype`, what the first layer reads.
      inputs: the batch's arrays. Attention stays within segments; the last layer computes only `output_positions`.
      dropout: the seed of dropout; None for no dropout.
      config: the layers' shape.
      runtime: how they compute.
      relative_bias: as in `SelfAttention`, the same in all layers.

    Returns:
      `[R, L, D]` of `runtime.dtype`. States at padding, segment 0, are undefined. States that `output_positions` leaves
      out are zero.
    """
    rows, length = inputs.input_ids.shape
    output_positions = locate(inputs.output_positions, rows, length)
    x = run_layers(
        layers,
        x,
        lambda layer, x, _, site, output_positions: layer(
            x, inputs.segment_ids, dropout, site, output_positions, relative_bias
        ),
        count=config.num_layers,
        remat=runtime.remat,
        unroll=runtime.unroll,
        activations=runtime.activations,
        output_positions=output_positions,
    )
    return scatter(x, output_positions, rows * length).reshape(rows, length, -1)


class Pooler(Linear):
    """The layer that some encoders have over the hidden states of first tokens: linear, then tanh."""

    def __init__(self, config: EncoderShape, *, rngs: nnx.Rngs):
        size = config.hidden_size
        super().__init__(size, size, initializer_range=config.initializer_range, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, `[..., D] -> [..., D]`."""
        return jnp.tanh(super().__call__(x))
