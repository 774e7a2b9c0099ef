"""GPT-2 (Radford et al., 2019): pre-norm causal transformer over packed rows, its layers stacked."""

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
    """Sum of word and position embeddings."""

    def __init__(self, *, vocab_size, max_positions, size, initializer_range, rngs):
        self.word = Embedding(vocab_size, size, initializer_range=initializer_range, rngs=rngs)
        self.position = Embedding(max_positions, size, initializer_range=initializer_range, rngs=rngs)

    def __call__(
        self, input_ids: jax.Array, positions: jax.Array, activations: NamedSharding | None
    ) -> jax.Array:
        """int32 ids `[N]` -> float32 `[N, D]`, laid out as `activations` says."""
        return sum_embeddings((self.word, input_ids), (self.position, positions), activations=activations)


class CausalSelfAttention(nnx.Module):
    """Query, key and value projections, causal attention within segments, output projection."""

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        rate: float,
        attention_function: Attention,
        scale_by_inverse_layer: bool,
        rows: ActivationLayout | None,
        initializer_range: float,
        output_range: float,
        rngs: nnx.Rngs,
    ):
        options = {"rows": rows, "rngs": rngs}
        self.query = Linear(size, size, initializer_range=initializer_range, **options)
        self.key = Linear(size, size, initializer_range=initializer_range, **options)
        self.value = Linear(size, size, initializer_range=initializer_range, **options)
        self.output = Linear(size, size, initializer_range=output_range, split=1, **options)
        self.num_heads = num_heads
        self.rate = rate
        self.attention_function = attention_function
        self.scale_by_inverse_layer = scale_by_inverse_layer

    def project(self, x: jax.Array, layer: int | jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`[..., D]` -> queries, keys and values, each `[..., D]`, of the layer numbered `layer` from 0."""
        query, key, value = apply_linears(x, self.query, self.key, self.value)
        if self.scale_by_inverse_layer:
            query = query * (1.0 / (jnp.asarray(layer) + 1)).astype(x.dtype)
        return query, key, value

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        layer,
        seed: DropoutSeed | None,
        site,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """x `[R * L, D]`, segment_ids int32 `[R, L]` -> `[R * L, D]`, or of those `output_positions`."""
        query, key, value = self.project(x, layer)
        mixed = self.attention_function(
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
        return self.output(gather(mixed, output_positions))


class Layer(nnx.Module):
    """One decoder layer: attention and MLP, each with a norm before it, dropout and residual connection after."""

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
        rows,
        initializer_range,
        output_range,
        rngs,
    ):
        options = {
            "rows": rows,
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
        layer,
        seed: DropoutSeed | None,
        site,
        output_positions: OutputPositions | None,
    ) -> jax.Array:
        """x `[R * L, D]`, segment_ids int32 `[R, L]`, layer its number; gives all vectors or those `output_positions`.

        Uses dropout sites `site` to `site + 2`.
        """
        of = {"rows": segment_ids.shape[0], "output_positions": output_positions}
        update = self.attention(self.attention_norm(x), segment_ids, layer, seed, site, output_positions)
        x = gather(x, output_positions) + apply_dropout(update, self.rate, seed, site + 1, **of)
        update = self.mlp(self.mlp_norm(x))
        return x + apply_dropout(update, self.rate, seed, site + 2, **of)


class GPT2(nnx.Module):
    """The decoder. Parameters are float32; the layers' are stacked, `[num_layers, ...]`, under `layers/`.

    scale_by_inverse_layer: divides a layer's attention scores by its number, from 1. Scores and softmax are
    float32 whatever `dtype` is, so `reorder_and_upcast_attn` of Hugging Face's config changes nothing here.
    dtype, attention_function, remat, unroll, activations, output_count: as in `Bert`.

    New weights are as in the paper, section 2.3: those that write into the residual stream start smaller by
    the square root of the number of such layers, two for each of `num_layers`.
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
                scale_by_inverse_layer=scale_by_inverse_layer,
                rows=rows,
                initializer_range=initializer_range,
                output_range=initializer_range / (2 * num_layers) ** 0.5,
                rngs=rngs,
            )

        self.layers = make_stack(layer, num_layers, rngs)
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
        """Returns hidden states after the final norm, `[R, L, D]` of `dtype`; those at padding, segment 0, mean nothing.

        A position sees those of its own segment up to itself. GPT-2 has no token types: it ignores them. output_mask: as
        `Bert`'s.
        """
        rows, length = inputs.input_ids.shape
        x = self.embeddings(inputs.input_ids.ravel(), inputs.positions.ravel(), self.activations)
        x = apply_dropout(x.astype(self.dtype), self.embedding_dropout, dropout, 0, rows=rows)
        output_positions = select_positions(output_mask, self.output_count)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, index, site, positions: layer(
                x, inputs.segment_ids, index, dropout, site, positions
            ),
            count=self.num_layers,
            remat=self.remat,
            unroll=self.unroll,
            activations=self.activations,
            output_positions=output_positions,
        )
        return scatter(self.norm(x), output_positions, rows * length).reshape(rows, length, -1)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token by the word embeddings (Press & Wolf, 2017): `[..., D]` -> float32 `[..., V]`."""
        table = self.embeddings.word.embedding[...].astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
