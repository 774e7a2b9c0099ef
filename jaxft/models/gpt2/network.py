"""Defines GPT-2 (Radford et al., 2019, section 2.3): a causal transformer decoder over packed rows.

The network is the paper's. Two embeddings are summed. Then each layer applies self-attention and an MLP; LayerNorm
precedes each of them ("pre-norm"), and dropout and a residual connection follow. A norm follows the last layer. Three
arrangements differ from the paper, with the same result:

- A row holds one or several texts, called segments, and attention stays within each segment.
- Outside of attention, activations are flat, `[R * L, D]`.
- The layers are one module with stacked parameters, `[num_layers, ...]`, and run in a loop.

In shapes, R is the number of rows, L the number of positions in a row, D the hidden size, and V the vocabulary size.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.attention.interface import BackboneAdapter, Visibility
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, locate, scatter
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers
from jaxft.layers.transformer.mlp import MLP
from jaxft.models.gpt2.config import GPT2Config


def _residual_range(config: GPT2Config) -> float:
    """Returns the standard deviation of new weights of linear layers that write into the residual stream.

    It is smaller than the others', by the square root of the number of these layers: two for each of `num_layers`.
    """
    return config.initializer_range / (2 * config.num_layers) ** 0.5


class Embeddings(nnx.Module):
    """The sum of word and position embeddings."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        make_table = functools.partial(
            Embedding, size=config.hidden_size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.word = make_table(config.vocab_size, is_vocabulary=True)
        self.position = make_table(config.max_positions)

    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, activations: NamedSharding | None
    ) -> jax.Array:
        """Returns the embeddings, float32 `[R * L, D]`, for inputs int32 `[R * L]`, sharded as `activations` says."""
        return sum_embeddings((self.word, input_ids), (self.position, positions), activations=activations)


class CausalSelfAttention(nnx.Module):
    """Causal multi-head attention within segments, with its four projections."""

    def __init__(self, config: GPT2Config, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.hidden_size
        make_linear = functools.partial(Linear, size, size, layout=runtime.layout, rngs=rngs)
        make_input = functools.partial(
            make_linear,
            initializer_range=config.initializer_range,
            axes=SPLIT_OUTPUTS,
            reads_all_positions=True,
        )
        self.query, self.key, self.value = make_input(), make_input(), make_input()
        self.output = make_linear(initializer_range=_residual_range(config), axes=SPLIT_INPUTS)
        self.config, self.runtime = config, runtime

    def project(self, x: jax.Array, layer: int | jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries, keys and values of x `[..., D]`, each `[..., D]`; `layer` is the layer's index, from 0."""
        query, key, value = apply_linears(x, self.query, self.key, self.value)
        if self.config.scale_by_inverse_layer:
            query = query * (1.0 / (jnp.asarray(layer) + 1)).astype(x.dtype)
        return query, key, value

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        layer: int | jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """Returns the attention's update of `x`, before dropout and residual connection.

        Args:
          x: `[R * L, D]`, normalized.
          segment_ids: int32 `[R, L]`.
          layer: the layer's index, from 0.
          seed: the seed of dropout; None for no dropout.
          site: the dropout site of the attention weights.
          output_positions: the N positions to compute; None for all.

        Returns:
          `[R * L, D]`, or `[N, D]` for `output_positions`.
        """
        query, key, value = self.project(x, layer)
        attended = self.runtime.attention_function(
            query,
            key,
            value,
            segment_ids,
            num_heads=self.config.num_heads,
            visibility=Visibility(causal=True),
            rate=self.config.attention_dropout,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class Layer(nnx.Module):
    """A decoder layer: attention and MLP, each after a norm, and followed by dropout and a residual connection."""

    def __init__(self, config: GPT2Config, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.attention_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.attention = CausalSelfAttention(config, runtime, rngs=rngs)
        self.mlp_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.mlp = MLP(
            size,
            config.intermediate_size,
            activation=config.activation,
            initializer_range=config.initializer_range,
            output_range=_residual_range(config),
            layout=runtime.layout,
            rngs=rngs,
        )
        self.rate = config.hidden_dropout

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        layer: int | jax.Array,
        seed: DropoutSeed | None,
        site: int | jax.Array,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """Returns the layer's output. Arguments and shapes are those of `CausalSelfAttention`.

        It uses the dropout sites `site` (attention weights), `site + 1` (attention) and `site + 2` (MLP).
        """

        def dropout(update: jax.Array, site: int | jax.Array) -> jax.Array:
            rows = segment_ids.shape[0]
            return apply_dropout(update, self.rate, seed, site, rows=rows, output_positions=output_positions)

        attended = self.attention(self.attention_norm(x), segment_ids, layer, seed, site, output_positions)
        x = gather(x, output_positions) + dropout(attended, site + 1)
        return x + dropout(self.mlp(self.mlp_norm(x)), site + 2)


class GPT2(nnx.Module):
    """The decoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`.

    Attention scores and softmax are float32 for any `dtype`. So `reorder_and_upcast_attn` in Hugging Face's config
    changes nothing.
    """

    adapter: BackboneAdapter | None = None  # unless `jaxft.adapters` has given it one

    def __init__(self, config: GPT2Config, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`, with weights initialized as in section 2.3 of the paper."""
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = make_stack(lambda rngs: Layer(config, runtime, rngs=rngs), config.num_layers, rngs)
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states after the final norm, `[R, L, D]` of `runtime.dtype`.

        States at padding are undefined. States that `inputs.output_positions` leaves out are zero.

        A position sees the positions of its segment up to itself. Segment 0 is padding. GPT-2 has no token types and
        ignores them. The arguments are those of `Bert`.
        """
        rows, length = inputs.input_ids.shape
        x = self.embeddings(inputs.input_ids.ravel(), inputs.positions.ravel(), self.runtime.activations)
        x = apply_dropout(x.astype(self.runtime.dtype), self.config.embedding_dropout, dropout, 0, rows=rows)
        output_positions = locate(inputs.output_positions, rows, length)

        def run_layer(layer, x, index, site, output_positions):
            return layer(x, inputs.segment_ids, index, dropout, site, output_positions)

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
        return scatter(self.norm(x), output_positions, rows * length).reshape(rows, length, -1)

    def compute_logits(self, hidden: jax.Array) -> jax.Array:
        """Computes the logits of the next token from the word embeddings (Press & Wolf, 2017).

        Args:
          hidden: `[..., D]`.

        Returns:
          float32 `[..., V]`.
        """
        table = self.embeddings.word.embedding[...].astype(hidden.dtype)
        dtype = jnp.promote_types(hidden.dtype, jnp.float32)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=dtype)
