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
    """The sum of word, position and token-type embeddings, normalized (Devlin et al., 2019, figure 2)."""

    def __init__(self, *, vocab_size, max_positions, type_vocab_size, size, epsilon, initializer_range, rngs):
        options = {"initializer_range": initializer_range, "rngs": rngs}
        self.word = Embedding(vocab_size, size, **options)
        self.position = Embedding(max_positions, size, **options)
        self.type = Embedding(type_vocab_size, size, **options)
        self.norm = LayerNorm(size, epsilon=epsilon)

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

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        rate: float,
        attention_function: Attention,
        layout: ActivationLayout | None,
        initializer_range: float,
        rngs: nnx.Rngs,
    ):
        options = {"initializer_range": initializer_range, "layout": layout, "rngs": rngs}
        self.query = Linear(size, size, **options)
        self.key = Linear(size, size, **options)
        self.value = Linear(size, size, **options)
        self.output = Linear(size, size, fsdp_dimension=1, **options)
        self.num_heads = num_heads
        self.rate = rate
        self.attention_function = attention_function

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
        attended = self.attention_function(
            *apply_linears(x, self.query, self.key, self.value),
            segment_ids,
            num_heads=self.num_heads,
            rate=self.rate,
            seed=seed,
            site=site,
        )
        return self.output(gather(attended, output_positions))


class Layer(nnx.Module):
    """An encoder layer: attention and MLP, each followed by dropout, residual connection and norm."""

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
        layout,
        initializer_range,
        rngs,
    ):
        options = {"initializer_range": initializer_range, "layout": layout, "rngs": rngs}
        self.attention = SelfAttention(
            size,
            num_heads=num_heads,
            rate=attention_dropout,
            attention_function=attention_function,
            **options,
        )
        self.attention_norm = LayerNorm(size, epsilon=epsilon)
        self.mlp = MLP(size, inner, activation=activation, output_range=initializer_range, **options)
        self.mlp_norm = LayerNorm(size, epsilon=epsilon)
        self.rate = hidden_dropout

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
        dropout_options = {"rows": segment_ids.shape[0], "output_positions": output_positions}
        update = self.attention(x, segment_ids, seed, site, output_positions)
        x = gather(x, output_positions)
        x = self.attention_norm(x + apply_dropout(update, self.rate, seed, site + 1, **dropout_options))
        update = self.mlp(x)
        return self.mlp_norm(x + apply_dropout(update, self.rate, seed, site + 2, **dropout_options))


class Bert(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_positions: int,
        type_vocab_size: int,
        activation: str,
        layer_norm_eps: float,
        hidden_dropout: float,
        attention_dropout: float,
        initializer_range: float,
        pooler: bool = False,
        dtype: jnp.dtype = jnp.float32,
        attention_function: Attention = dense_attention,
        remat: str = "none",
        unroll: bool = False,
        activations: NamedSharding | None = None,
        output_count: int = 0,
        rngs: nnx.Rngs,
    ):
        """Makes a new network.

        The arguments up to `initializer_range` come from `bert.config.read_sizes`.

        Args:
          pooler: whether to add the linear layer that `pool` applies to the first token's state.
          dtype: the dtype of activations and matrix products.
          attention_function: computes the same as `dense_attention`.
          remat: what the backward pass computes again; see `layer_stacks.run_layers`.
          unroll: whether to unroll the loop over layers: quicker on CPU and GPU, but slower to compile.
          activations: the sharding of `[R * L, D]` over the devices of a mesh.
          output_count: the largest number of positions that are read from a batch; 0 if unknown. If it is known and
            the batch has an `output_mask`, the last layer computes only that many positions.
          rngs: the random numbers for the initial parameters.
        """
        check_network_options(
            hidden_size=hidden_size, num_heads=num_heads, activation=activation, remat=remat
        )
        self.embeddings = Embeddings(
            vocab_size=vocab_size,
            max_positions=max_positions,
            type_vocab_size=type_vocab_size,
            size=hidden_size,
            epsilon=layer_norm_eps,
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
                layout=layout,
                initializer_range=initializer_range,
                rngs=rngs,
            )

        self.layers = make_stack(make_layer, num_layers, rngs)
        if pooler:
            self.pooler = Linear(hidden_size, hidden_size, initializer_range=initializer_range, rngs=rngs)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.hidden_dropout = hidden_dropout
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.unroll = unroll
        self.activations = activations
        self.output_count = output_count

    def __call__(
        self, inputs: Inputs, dropout: DropoutSeed | None = None, output_mask: jax.Array | None = None
    ) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `dtype`. States at padding, segment 0, are undefined.

        Args:
          inputs: the batch's arrays.
          dropout: the seed of dropout; None for no dropout.
          output_mask: boolean `[R, L]`, True at the positions that are read, at most `output_count`. The states at
            other positions may be undefined.
        """
        rows, length = inputs.input_ids.shape
        # Matrix products run on flat [R * L, D]: on CPU, products of [R, L, D] take twice as long.
        ids, positions, types = inputs.input_ids, inputs.positions, inputs.token_type_ids
        x = self.embeddings(ids.ravel(), positions.ravel(), types.ravel(), self.activations)
        x = apply_dropout(x.astype(self.dtype), self.hidden_dropout, dropout, 0, rows=rows)
        output_positions = select_positions(output_mask, self.output_count)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, _, site, output_positions: layer(
                x, inputs.segment_ids, dropout, site, output_positions
            ),
            count=self.num_layers,
            remat=self.remat,
            unroll=self.unroll,
            activations=self.activations,
            output_positions=output_positions,
        )
        return scatter(x, output_positions, rows * length).reshape(rows, length, -1)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return jnp.tanh(self.pooler(x))
