"""Defines GPT-2 (Radford et al., 2019, section 2.3): a causal transformer decoder over packed rows.

The network is the paper's. Two embeddings are summed. Then each layer applies self-attention and an MLP; LayerNorm
precedes each of them ("pre-norm"), and dropout and a residual connection follow. A norm follows the last layer. Three
arrangements differ from the paper, with the same result:

- A row holds one or several texts, called segments, and attention stays within each segment.
- Outside of attention, activations are flat, `[R * L, D]`.
- The layers are one module with stacked parameters, `[num_layers, ...]`, and run in a loop.

In shapes, R is the number of rows, L the number of positions in a row, D the hidden size, and V the vocabulary size.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention.over_mesh import Attention
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.layer_stacks import check_network_options, make_activation_layout, make_stack, run_layers
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.mlp import MLP
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, scatter, select_positions
from jaxft.parallel.sharded_matmul import ActivationLayout


class Embeddings(nnx.Module):
    """The sum of word and position embeddings."""

    def __init__(self, *, vocab_size, max_positions, size, initializer_range, rngs):
        self.word = Embedding(vocab_size, size, initializer_range=initializer_range, rngs=rngs)
        self.position = Embedding(max_positions, size, initializer_range=initializer_range, rngs=rngs)

    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, activations: NamedSharding | None
    ) -> jax.Array:
        """Returns the embeddings, float32 `[R * L, D]`, for inputs int32 `[R * L]`, sharded as `activations` says."""
        return sum_embeddings((self.word, input_ids), (self.position, positions), activations=activations)


class CausalSelfAttention(nnx.Module):
    """Causal multi-head attention within segments, with its four projections."""

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        rate: float,
        attention_function: Attention,
        scale_by_inverse_layer: bool,
        layout: ActivationLayout | None,
        initializer_range: float,
        output_range: float,
        rngs: nnx.Rngs,
    ):
        options = {"layout": layout, "rngs": rngs}
        self.query = Linear(size, size, initializer_range=initializer_range, **options)
        self.key = Linear(size, size, initializer_range=initializer_range, **options)
        self.value = Linear(size, size, initializer_range=initializer_range, **options)
        self.output = Linear(size, size, initializer_range=output_range, fsdp_dimension=1, **options)
        self.num_heads = num_heads
        self.rate = rate
        self.attention_function = attention_function
        self.scale_by_inverse_layer = scale_by_inverse_layer

    def project(self, x: jax.Array, layer: int | jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries, keys and values of x `[..., D]`, each `[..., D]`; `layer` is the layer's index, from 0."""
        query, key, value = apply_linears(x, self.query, self.key, self.value)
        if self.scale_by_inverse_layer:
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
        attended = self.attention_function(
            query,
            key,
            value,
            segment_ids,
            num_heads=self.num_heads,
            causal=True,
            rate=self.rate,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class Layer(nnx.Module):
    """A decoder layer: attention and MLP, each after a norm, and followed by dropout and a residual connection."""

    def __init__(
        self,
        size: int,
        *,
        num_heads,
        inner,
        activation,
        epsilon,
        hidden_dropout,
        attention_dropout,
        attention_function,
        scale_by_inverse_layer,
        layout,
        initializer_range,
        output_range,
        rngs,
    ):
        options = {
            "layout": layout,
            "initializer_range": initializer_range,
            "output_range": output_range,
            "rngs": rngs,
        }
        self.attention_norm = LayerNorm(size, epsilon=epsilon)
        self.attention = CausalSelfAttention(
            size,
            num_heads=num_heads,
            rate=attention_dropout,
            attention_function=attention_function,
            scale_by_inverse_layer=scale_by_inverse_layer,
            **options,
        )
        self.mlp_norm = LayerNorm(size, epsilon=epsilon)
        self.mlp = MLP(size, inner, activation=activation, **options)
        self.rate = hidden_dropout

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
        dropout_options = {"rows": segment_ids.shape[0], "output_positions": output_positions}
        update = self.attention(self.attention_norm(x), segment_ids, layer, seed, site, output_positions)
        x = gather(x, output_positions) + apply_dropout(update, self.rate, seed, site + 1, **dropout_options)
        update = self.mlp(self.mlp_norm(x))
        return x + apply_dropout(update, self.rate, seed, site + 2, **dropout_options)


class GPT2(nnx.Module):
    """The decoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`.

    Attention scores and softmax are float32 for any `dtype`. So `reorder_and_upcast_attn` in Hugging Face's config
    changes nothing.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_positions: int,
        activation: str,
        layer_norm_eps: float,
        embedding_dropout: float,
        hidden_dropout: float,
        attention_dropout: float,
        initializer_range: float,
        scale_by_inverse_layer: bool = False,
        dtype: jnp.dtype = jnp.float32,
        attention_function: Attention = dense_attention,
        remat: str = "none",
        unroll: bool = False,
        activations: NamedSharding | None = None,
        output_count: int = 0,
        rngs: nnx.Rngs,
    ):
        """Makes a new network, with weights initialized as in section 2.3 of the paper.

        The weights of linear layers that write into the residual stream start smaller, by the square root of the number
        of these layers: two for each of `num_layers`.

        The arguments up to `scale_by_inverse_layer` come from `gpt2.config.read_sizes`. The arguments from `dtype` on
        are those of `Bert`.

        Args:
          scale_by_inverse_layer: whether to divide a layer's attention scores by its number, from 1.
        """
        check_network_options(
            hidden_size=hidden_size, num_heads=num_heads, activation=activation, remat=remat
        )
        self.embeddings = Embeddings(
            vocab_size=vocab_size,
            max_positions=max_positions,
            size=hidden_size,
            initializer_range=initializer_range,
            rngs=rngs,
        )

        layout = make_activation_layout(activations, remat=remat, unroll=unroll)

        def make_layer(rngs: nnx.Rngs) -> Layer:
            return Layer(
                hidden_size,
                num_heads=num_heads,
                inner=intermediate_size,
                activation=activation,
                epsilon=layer_norm_eps,
                hidden_dropout=hidden_dropout,
                attention_dropout=attention_dropout,
                attention_function=attention_function,
                scale_by_inverse_layer=scale_by_inverse_layer,
                layout=layout,
                initializer_range=initializer_range,
                output_range=initializer_range / (2 * num_layers) ** 0.5,
                rngs=rngs,
            )

        self.layers = make_stack(make_layer, num_layers, rngs)
        self.norm = LayerNorm(hidden_size, epsilon=layer_norm_eps)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.max_positions = max_positions
        self.embedding_dropout = embedding_dropout
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.unroll = unroll
        self.activations = activations
        self.output_count = output_count

    def __call__(
        self, inputs: Inputs, dropout: DropoutSeed | None = None, output_mask: jax.Array | None = None
    ) -> jax.Array:
        """Returns hidden states after the final norm, `[R, L, D]` of `dtype`. States at padding are undefined.

        A position sees the positions of its segment up to itself. Segment 0 is padding. GPT-2 has no token types and
        ignores them. The arguments are those of `Bert`.
        """
        rows, length = inputs.input_ids.shape
        x = self.embeddings(inputs.input_ids.ravel(), inputs.positions.ravel(), self.activations)
        x = apply_dropout(x.astype(self.dtype), self.embedding_dropout, dropout, 0, rows=rows)
        output_positions = select_positions(output_mask, self.output_count)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, index, site, output_positions: layer(
                x, inputs.segment_ids, index, dropout, site, output_positions
            ),
            count=self.num_layers,
            remat=self.remat,
            unroll=self.unroll,
            activations=self.activations,
            output_positions=output_positions,
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
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
