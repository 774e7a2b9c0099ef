"""BERT (Devlin et al., 2019): post-norm transformer encoder over packed rows, its layers stacked."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers.attention.choice import Attention
from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.layer_stacks import check_network_options, layer_layout, make_stack, run_layers
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.mlp import MLP
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, scatter, select_positions
from jaxft.parallel.sharded_matmul import ActivationLayout


class Embeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, normalized."""

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
        """int32 ids `[N]` -> float32 `[N, D]`, laid out as `activations` says."""
        looked_up = (self.word, input_ids), (self.type, token_type_ids), (self.position, positions)
        return self.norm(sum_embeddings(*looked_up, activations=activations))


class SelfAttention(nnx.Module):
    """Query, key and value projections, attention within segments, output projection."""

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        rate: float,
        attention_function: Attention,
        rows: ActivationLayout | None,
        initializer_range: float,
        rngs: nnx.Rngs,
    ):
        options = {"initializer_range": initializer_range, "rows": rows, "rngs": rngs}
        self.query = Linear(size, size, **options)
        self.key = Linear(size, size, **options)
        self.value = Linear(size, size, **options)
        self.output = Linear(size, size, split=1, **options)
        self.num_heads = num_heads
        self.rate = rate
        self.attention_function = attention_function

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seed: DropoutSeed | None,
        site,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """x `[R * L, D]`, segment_ids int32 `[R, L]` -> `[R * L, D]`, or of those `output_positions`."""
        mixed = self.attention_function(
            *apply_linears(x, self.query, self.key, self.value),
            segment_ids,
            num_heads=self.num_heads,
            rate=self.rate,
            seed=seed,
            site=site,
        )
        return self.output(gather(mixed, output_positions))


class Layer(nnx.Module):
    """One encoder layer: attention and MLP, each with dropout, residual connection and a norm after it."""

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
        rows,
        initializer_range,
        rngs,
    ):
        options = {"initializer_range": initializer_range, "rows": rows, "rngs": rngs}
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
        site,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """x `[R * L, D]`, segment_ids int32 `[R, L]`; gives all vectors or those `output_positions`.

        Uses dropout sites `site` to `site + 2`.
        """
        of = {"rows": segment_ids.shape[0], "output_positions": output_positions}
        update = self.attention(x, segment_ids, seed, site, output_positions)
        x = gather(x, output_positions)
        x = self.attention_norm(x + apply_dropout(update, self.rate, seed, site + 1, **of))
        update = self.mlp(x)
        return self.mlp_norm(x + apply_dropout(update, self.rate, seed, site + 2, **of))


class Bert(nnx.Module):
    """The encoder. Parameters are float32; the layers' are stacked, `[num_layers, ...]`, under `layers/`.

    dtype: what activations and matrix products are computed in. attention_function: computes what
    `attention.dense` does. remat: see `stack.run`. unroll: unrolls the scan over layers, which is quicker on CPU
    and GPU and slower to compile. activations: how `[R * L, D]` lies over devices. output_count: positions of a batch
    whose output is wanted, at most, where that is known; else 0.
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

        rows = layer_layout(activations, remat=remat, unroll=unroll)

        def layer(rngs: nnx.Rngs) -> Layer:
            return Layer(
                hidden_size,
                num_heads=num_heads,
                inner=intermediate_size,
                activation=activation,
                epsilon=layer_norm_eps,
                hidden_dropout=hidden_dropout,
                attention_dropout=attention_dropout,
                attention_function=attention_function,
                rows=rows,
                initializer_range=initializer_range,
                rngs=rngs,
            )

        self.layers = make_stack(layer, num_layers, rngs)
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
        """Returns hidden states `[R, L, D]` of `dtype`; those at padding, segment 0, mean nothing.

        output_mask: boolean `[R, L]`, true at the positions that are read, at most `output_count`. The states elsewhere
        may mean nothing either.
        """
        rows, length = inputs.input_ids.shape
        # Dense parts run on flat [R * L, D]: on CPU the products of [R, L, D] take twice as long.
        ids, positions, types = inputs.input_ids, inputs.positions, inputs.token_type_ids
        x = self.embeddings(ids.ravel(), positions.ravel(), types.ravel(), self.activations)
        x = apply_dropout(x.astype(self.dtype), self.hidden_dropout, dropout, 0, rows=rows)
        output_positions = select_positions(output_mask, self.output_count)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, _, site, positions: layer(x, inputs.segment_ids, dropout, site, positions),
            count=self.num_layers,
            remat=self.remat,
            unroll=self.unroll,
            activations=self.activations,
            output_positions=output_positions,
        )
        return scatter(x, output_positions, rows * length).reshape(rows, length, -1)

    def pool(self, x: jax.Array) -> jax.Array:
        """Hidden states of first tokens, `[..., D]` -> `[..., D]`: tanh of a linear layer."""
        return jnp.tanh(self.pooler(x))
