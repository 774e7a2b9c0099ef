"""Defines ModernBERT (Warner et al., 2024): an encoder for long texts, over packed rows.

The network is the paper's (section 2.1). Word embeddings are normalized. Then each layer applies self-attention and a
gated MLP, GeGLU (Shazeer, 2020); LayerNorm precedes each of them ("pre-norm"), but not the attention of the first
layer, which reads what a norm has just returned. A norm follows the last layer. Positions are in the angles of queries
and keys, RoPE (Su et al., 2021). Every third layer is global: it sees its entire segment. The others are local: they
see only neighbours within a window, and have RoPE with another theta. There are no biases. Three arrangements differ
from the paper, with the same result:

- A row holds one or several texts, called segments, and attention stays within each segment. The paper's "unpadding"
  is the same for rows that are as long as a batch.
- Outside of attention, activations are flat, `[R * L, D]`.
- The layers are one module with stacked parameters, `[num_layers, ...]`. The first layer has a norm of attention like
  the others, which nothing reads.

In shapes, R is the number of rows, L the number of positions in a row, D the hidden size.
"""

import functools

import jax
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.attention.interface import BackboneAdapter, Visibility
from jaxft.layers.attention.rotary import Rotation, make_rotation, rotate
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, locate, scatter
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers
from jaxft.layers.transformer.mlp import GatedMLP
from jaxft.models.modernbert.config import ModernBertConfig


def _residual_range(config: ModernBertConfig) -> float:
    """Returns the standard deviation of new weights of linear layers that write into the residual stream."""
    return config.initializer_range / (2 * config.num_layers) ** 0.5


def _make_norm(config: ModernBertConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_bias=config.has_norm_bias)


class Embeddings(nnx.Module):
    """Word embeddings, normalized."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        self.word = Embedding(
            config.vocab_size,
            config.hidden_size,
            initializer_range=config.initializer_range,
            is_vocabulary=True,
            rngs=rngs,
        )
        self.norm = _make_norm(config)

    def __call__(self, input_ids: jax.Array, activations: NamedSharding | None) -> jax.Array:
        """Returns the embeddings of int32 `[R * L]`, float32 `[R * L, D]`, sharded as `activations` says."""
        return self.norm(sum_embeddings((self.word, input_ids), activations=activations))


class SelfAttention(nnx.Module):
    """Multi-head attention within segments or windows of them, with RoPE and its four projections."""

    def __init__(self, config: ModernBertConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.hidden_size
        make_linear = functools.partial(
            Linear, size, size, use_bias=config.has_attention_bias, layout=runtime.layout, rngs=rngs
        )
        make_input = functools.partial(
            make_linear,
            initializer_range=config.initializer_range,
            axes=SPLIT_OUTPUTS,
            reads_all_positions=True,
        )
        self.query, self.key, self.value = make_input(), make_input(), make_input()
        self.output = make_linear(initializer_range=_residual_range(config), axes=SPLIT_INPUTS)
        self.config, self.runtime = config, runtime

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        rotation: Rotation,
        visibility: Visibility,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """Returns the attention's update of `x`, before dropout and residual connection.

        Args:
          x: `[R * L, D]`, normalized.
          segment_ids: int32 `[R, L]`.
          rotation: turns queries and keys.
          visibility: which positions of its segment a query sees.
          seed: the seed of dropout; None for no dropout.
          site: the dropout site of the attention weights.
          output_positions: the N positions to compute; None for all.

        Returns:
          `[R * L, D]`, or `[N, D]` for `output_positions`.
        """
        num_heads = self.config.num_heads
        query, key, value = apply_linears(x, self.query, self.key, self.value)
        attended = self.runtime.attention_function(
            rotate(query, rotation, num_heads),
            rotate(key, rotation, num_heads),
            value,
            segment_ids,
            num_heads=num_heads,
            visibility=visibility,
            rate=self.config.attention_dropout,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class Layer(nnx.Module):
    """A layer: attention and a gated MLP, each after a norm, and followed by a residual connection."""

    def __init__(self, config: ModernBertConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        self.attention_norm = _make_norm(config)
        self.attention = SelfAttention(config, runtime, rngs=rngs)
        self.mlp_norm = _make_norm(config)
        self.mlp = GatedMLP(
            config.hidden_size,
            config.intermediate_size,
            activation=config.activation,
            use_bias=config.has_mlp_bias,
            initializer_range=config.initializer_range,
            output_range=_residual_range(config),
            layout=runtime.layout,
            rngs=rngs,
        )
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        rotation: Rotation,
        visibility: Visibility,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
        *,
        is_first: bool,
    ) -> jax.Array:
        """Returns the layer's output. Arguments and shapes are those of `SelfAttention`; x is not normalized.

        It uses the dropout sites `site` (attention weights), `site + 1` (attention) and `site + 2` (within the MLP). If
        it is the first layer, no norm precedes attention.
        """

        def drop(x: jax.Array, rate: float, site: int | jax.Array) -> jax.Array:
            rows = segment_ids.shape[0]
            return apply_dropout(x, rate, seed, site, rows=rows, output_positions=output_positions)

        normal = x if is_first else self.attention_norm(x)
        attended = self.attention(normal, segment_ids, rotation, visibility, seed, site, output_positions)
        x = gather(x, output_positions) + drop(attended, self.config.attention_dropout, site + 1)
        return x + self.mlp(self.mlp_norm(x), lambda inner: drop(inner, self.config.mlp_dropout, site + 2))


class ModernBert(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    adapter: BackboneAdapter | None = None  # unless `jaxft.adapters` has given it one

    def __init__(self, config: ModernBertConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`, with weights initialized as in the paper, but not truncated."""
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = make_stack(lambda rngs: Layer(config, runtime, rngs=rngs), config.num_layers, rngs)
        self.norm = _make_norm(config)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states after the final norm, `[R, L, D]` of `runtime.dtype`.

        States at padding, segment 0, are undefined. States that `inputs.output_positions` leaves out are zero. The
        arguments are those of `Bert`.
        """
        rows, length = inputs.input_ids.shape
        config, runtime = self.config, self.runtime
        x = self.embeddings(inputs.input_ids.ravel(), runtime.activations).astype(runtime.dtype)
        x = apply_dropout(x, config.embedding_dropout, dropout, 0, rows=rows)
        rotations = {
            layer_type: make_rotation(inputs.positions, config.head_width, theta, runtime.dtype)
            for layer_type, theta in config.thetas.items()
        }

        def run_layer(kind, layer, x, _, site, output_positions):
            layer_type, visibility, is_first = kind
            view = inputs.segment_ids, rotations[layer_type], visibility
            return layer(x, *view, dropout, site, output_positions, is_first=is_first)

        first_layer = [True] + [False] * (config.num_layers - 1)
        kinds = list(zip(config.type_of_each_layer, config.visibilities, first_layer, strict=True))
        by_kind = {kind: functools.partial(run_layer, kind) for kind in kinds}
        functions = [by_kind[kind] for kind in kinds]
        output_positions = locate(inputs.output_positions, rows, length)
        x = run_layers(
            self.layers,
            x,
            functions,
            runtime,
            output_positions,
            rows=rows,
            dropout=dropout,
            prefix=self.adapter,
        )
        return scatter(self.norm(x), output_positions, rows * length).reshape(rows, length, -1)
