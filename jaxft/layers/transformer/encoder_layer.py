"""Defines the encoder layer of Vaswani et al. (2017), section 3.1, over packed rows.

Self-attention and an MLP; dropout, a residual connection and LayerNorm follow each of them ("post-norm"). In shapes, R
is the number of rows, L the number of positions in a row, D the hidden size, and H the number of attention heads.
"""

import dataclasses
import functools
from typing import Protocol

import jax
from flax import nnx

from jaxft.layers.attention.interface import RelativeTerms
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.mlp import MLP


@dataclasses.dataclass(frozen=True)
class EncoderShape:
    """The part of a model's shape that an encoder knows. Configs of families inherit from it.

    Attributes:
      vocab_size: the number of embeddings of words.
      max_positions: the number of positions in a row at most.
      type_vocab_size: the number of embeddings of token types; 0 if the family has none.
      hidden_size: D.
      num_layers: the number of layers.
      num_heads: H, which divides D.
      intermediate_size: the width within the MLP.
      activation: a key of `layers.activations.ACTIVATIONS`.
      layer_norm_eps: the epsilon of every LayerNorm.
      hidden_dropout: the dropout rate of embeddings, and of what attention and MLP add to `x`.
      attention_dropout: the dropout rate of attention weights.
      initializer_range: the standard deviation of new weights.
    """

    vocab_size: int
    max_positions: int
    type_vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float

    @property
    def first_position(self) -> int:
        """Returns the number of the embedding of a segment's first position: 1 + the padding token's id, or 0."""
        return 0


class AttentionShape(Protocol):
    """The part of a model's shape that attention knows; see `EncoderShape`."""

    @property
    def hidden_size(self) -> int:
        """D."""

    @property
    def num_heads(self) -> int:
        """H."""

    @property
    def attention_dropout(self) -> float:
        """The dropout rate of attention weights."""

    @property
    def initializer_range(self) -> float:
        """The standard deviation of new weights."""


class SelfAttention(nnx.Module):
    """Multi-head attention within segments (Vaswani et al., 2017, section 3.2.2), with its four projections.

    Args:
      config: its shape.
      runtime: how it computes.
      use_input_bias: whether queries, keys and values have biases.
    """

    def __init__(
        self, config: AttentionShape, runtime: Runtime, *, rngs: nnx.Rngs, use_input_bias: bool = True
    ):
        size = config.hidden_size
        make_linear = functools.partial(
            Linear, size, size, initializer_range=config.initializer_range, layout=runtime.layout, rngs=rngs
        )
        make_input = functools.partial(
            make_linear, axes=SPLIT_OUTPUTS, reads_all_positions=True, use_bias=use_input_bias
        )
        self.query, self.key, self.value = make_input(), make_input(), make_input()
        self.output = make_linear(axes=SPLIT_INPUTS)
        self.config, self.runtime = config, runtime

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
        relative: RelativeTerms | None = None,
    ) -> jax.Array:
        """Returns the attention's update of `x`, before dropout and residual connection.

        Args:
          x: `[R * L, D]`.
          segment_ids: int32 `[R, L]`.
          seed: the seed of dropout; None for no dropout.
          site: the dropout site of the attention weights.
          output_positions: the N positions to compute; None for all.
          relative: what distances add to scores; None for nothing.

        Returns:
          `[R * L, D]`, or `[N, D]` for `output_positions`.
        """
        query, key, value = apply_linears(x, self.query, self.key, self.value)
        attended = self.runtime.attention_function(
            query,
            key,
            value,
            segment_ids,
            num_heads=self.config.num_heads,
            relative=relative,
            rate=self.config.attention_dropout,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class EncoderLayer(nnx.Module):
    """An encoder layer: attention and MLP, each followed by dropout, residual connection and norm.

    Args:
      config: the layer's shape.
      runtime: how it computes.
      drops_attention_output: whether dropout follows attention too, and not only the MLP.
    """

    def __init__(
        self,
        config: EncoderShape,
        runtime: Runtime,
        *,
        rngs: nnx.Rngs,
        drops_attention_output: bool = True,
    ):
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
        self.attention_rate = config.hidden_dropout if drops_attention_output else 0.0

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
        relative: RelativeTerms | None = None,
    ) -> jax.Array:
        """Returns the layer's output. Arguments and shapes are those of `SelfAttention`.

        It uses the dropout sites `site` (attention weights), `site + 1` (attention) and `site + 2` (MLP).
        """

        def drop(update: jax.Array, rate: float, site: int | jax.Array) -> jax.Array:
            rows = segment_ids.shape[0]
            return apply_dropout(update, rate, seed, site, rows=rows, output_positions=output_positions)

        attended = self.attention(x, segment_ids, seed, site, output_positions, relative)
        x = gather(x, output_positions)  # what follows needs no other positions
        x = self.attention_norm(x + drop(attended, self.attention_rate, site + 1))
        return self.mlp_norm(x + drop(self.mlp(x), self.rate, site + 2))
