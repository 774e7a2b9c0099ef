"""Defines the encoder of BERT and its successors: embeddings, then a stack of encoder layers, over packed rows.

In shapes, R is the number of rows, L the number of positions in a row, D the hidden size, and E the width of
embeddings, which is D for most families.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.attention.interface import BackboneAdapter, RelativeTerms
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import locate, scatter
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder_layer import EncoderLayer, EncoderShape
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers


class Embeddings(nnx.Module):
    """The sum of word, position and token-type embeddings, normalized (Devlin et al., 2019, figure 2), with dropout.

    With one token type, the types of tokens are not read.

    Args:
      config: the model's shape.
      runtime: how the model computes.
      size: E.
    """

    def __init__(self, config: EncoderShape, runtime: Runtime, *, size: int, rngs: nnx.Rngs):
        make_table = functools.partial(
            Embedding, size=size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.word = make_table(config.vocab_size, is_vocabulary=True)
        self.position = make_table(config.first_position + config.max_positions)
        if config.type_vocab_size:
            self.type = make_table(config.type_vocab_size)
        self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the embeddings `[R * L, E]` of `runtime.dtype`. Dropout has the site 0."""
        # Matrix products run on flat [R * L, D]: on CPU, products of [R, L, D] take twice as long.
        lookups = [(self.word, inputs.input_ids.ravel())]
        if self.config.type_vocab_size:
            types = inputs.token_type_ids.ravel()
            lookups.append((self.type, types if self.config.type_vocab_size > 1 else jnp.zeros_like(types)))
        positions, first_position = inputs.positions, self.config.first_position
        if first_position:
            positions = skip_padding_tokens(inputs, first_position - 1) + first_position
        lookups.append((self.position, positions.ravel()))
        x = self.norm(sum_embeddings(*lookups, activations=self.runtime.activations))
        x, rows = x.astype(self.runtime.dtype), len(inputs.input_ids)
        return apply_dropout(x, self.config.hidden_dropout, dropout, 0, rows=rows)


def skip_padding_tokens(inputs: Inputs, padding_id: int) -> jax.Array:
    """Returns the positions `[R, L]` of tokens as transformers numbers them where 0 comes after the padding token's id.

    Texts may hold the padding token literally, as "<pad>". It then has position -1, and those after it one less.
    """
    is_padding = (inputs.input_ids == padding_id).astype(jnp.int32)
    count = jnp.cumsum(is_padding, axis=1, dtype=jnp.int32)  # in the row, up to each slot
    before = jnp.where(inputs.positions == 0, count - is_padding, 0)
    before = jax.lax.cummax(before, axis=1)  # in the row before the slot's segment
    return jnp.where(is_padding, -1, inputs.positions - (count - before))


class Pooler(Linear):
    """The layer that some encoders have over the hidden states of first tokens: linear, then tanh."""

    def __init__(self, config: EncoderShape, *, rngs: nnx.Rngs):
        size = config.hidden_size
        super().__init__(size, size, initializer_range=config.initializer_range, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer, `[..., D] -> [..., D]`."""
        return jnp.tanh(super().__call__(x))


class Encoder(nnx.Module):
    """An encoder without a head: embeddings, then a stack of layers, `layers`. Parameters are float32.

    The networks of families inherit from it. Arguments say what a family has that BERT has not.

    Args:
      config: its shape.
      runtime: how it computes.
      pooler: whether to add the linear layer that `pool` applies to the first token's state.
      rngs: the random numbers for the initial parameters.
      embedding_size: E. If it is not D, a linear layer, `projection`, follows the embeddings. None for D.
      make_relative_bias: makes the module `relative_bias`, which returns attention's `relative` for rows of a length.
      drops_attention_output: as in `EncoderLayer`.
    """

    adapter: BackboneAdapter | None = None  # unless `jaxft.adapters` has given it one

    def __init__(
        self,
        config: EncoderShape,
        runtime: Runtime = PLAIN_RUNTIME,
        *,
        pooler: bool = False,
        rngs: nnx.Rngs,
        embedding_size: int | None = None,
        make_relative_bias: Callable[[nnx.Rngs], Callable[[int], RelativeTerms]] | None = None,
        drops_attention_output: bool = True,
    ):
        size = embedding_size or config.hidden_size
        self.embeddings = Embeddings(config, runtime, size=size, rngs=rngs)
        self.has_projection = size != config.hidden_size
        if self.has_projection:
            self.projection = Linear(
                size,
                config.hidden_size,
                initializer_range=config.initializer_range,
                layout=runtime.layout,
                rngs=rngs,
            )
        self.relative_bias = None if make_relative_bias is None else make_relative_bias(rngs)

        def make_layer(rngs: nnx.Rngs) -> EncoderLayer:
            return EncoderLayer(config, runtime, rngs=rngs, drops_attention_output=drops_attention_output)

        self.layers = make_stack(make_layer, config.num_layers, rngs)
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
        rows, length = inputs.input_ids.shape
        x = self.embeddings(inputs, dropout)
        if self.has_projection:
            x = self.projection(x)
        relative = None if self.relative_bias is None else self.relative_bias(length)
        output_positions = locate(inputs.output_positions, rows, length)

        def run_layer(layer, x, _, site, output_positions):
            return layer(x, inputs.segment_ids, dropout, site, output_positions, relative)

        functions = [run_layer] * self.config.num_layers
        x = run_layers(
            self.layers,
            x,
            functions,
            self.runtime,
            output_positions,
            rows=rows,
            dropout=dropout,
            prefix=self.adapter,
        )
        return scatter(x, output_positions, rows * length).reshape(rows, length, -1)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return self.pooler(x)
