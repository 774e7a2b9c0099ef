"""Defines ERNIE (Sun et al., 2019), an encoder with BERT's layers, over packed rows.

A row holds one or several texts, called segments. Attention stays within each. In shapes, R is the number of rows, L
the number of positions in a row, and D the hidden size.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear, apply_linears
from jaxft.layers.norm import LayerNorm
from jaxft.layers.parameters import SPLIT_INPUTS, SPLIT_OUTPUTS
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers
from jaxft.layers.transformer.mlp import MLP
from jaxft.models.ernie.config import ErnieConfig


class Layer(nnx.Module):
    """A layer: attention and MLP, each followed by dropout, residual connection and norm."""

    def __init__(self, config: ErnieConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size, scale = config.hidden_size, config.initializer_range
        options = {"initializer_range": scale, "layout": runtime.layout, "rngs": rngs}
        # The axes say how several devices share a matrix; the roles of parameters follow from the layers used here.
        inputs = options | {"axes": SPLIT_OUTPUTS, "reads_all_positions": True}
        self.query, self.key, self.value = (Linear(size, size, **inputs) for _ in range(3))
        self.output = Linear(size, size, axes=SPLIT_INPUTS, **options)
        self.attention_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.mlp = MLP(
            size,
            config.intermediate_size,
            activation=config.activation,
            output_range=scale,
            **options,
        )
        self.mlp_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, seed: DropoutSeed | None, site: int | jax.Array
    ) -> jax.Array:
        """Returns the layer's output for x, `[R * L, D]`, with dropout at the sites `site` to `site + 2`."""
        rows, rate = len(segment_ids), self.config.hidden_dropout
        attended = self.runtime.attention_function(
            *apply_linears(x, self.query, self.key, self.value),
            segment_ids,
            num_heads=self.config.num_heads,
            rate=self.config.attention_dropout,
            seed=seed,
            site=site,
        )
        update = apply_dropout(self.output(attended), rate, seed, site + 1, rows=rows)
        x = self.attention_norm(x + update)
        return self.mlp_norm(x + apply_dropout(self.mlp(x), rate, seed, site + 2, rows=rows))


class Ernie(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(
        self, config: ErnieConfig, runtime: Runtime = PLAIN_RUNTIME, *, pooler: bool = False, rngs: nnx.Rngs
    ):
        size, options = config.hidden_size, {"initializer_range": config.initializer_range, "rngs": rngs}
        self.word = Embedding(config.vocab_size, size, is_vocabulary=True, **options)
        self.position = Embedding(config.max_positions, size, **options)
        self.type = Embedding(config.type_vocab_size, size, **options)
        self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.layers = make_stack(lambda rngs: Layer(config, runtime, rngs=rngs), config.num_layers, rngs)
        if pooler:
            self.pooler = Linear(size, size, **options)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`; see `Inputs`. Those at padding are undefined."""
        rows, length = inputs.input_ids.shape
        config, runtime = self.config, self.runtime
        lookups = (
            (self.word, inputs.input_ids.ravel()),
            (self.type, inputs.token_type_ids.ravel()),
            (self.position, inputs.positions.ravel()),
        )
        x = self.norm(sum_embeddings(*lookups, activations=runtime.activations))
        x = apply_dropout(x.astype(runtime.dtype), config.hidden_dropout, dropout, 0, rows=rows)
        x = run_layers(
            self.layers,
            x,
            lambda layer, x, _, site, output_positions: layer(x, inputs.segment_ids, dropout, site),
            count=config.num_layers,
            remat=runtime.remat,
            unroll=runtime.unroll,
            activations=runtime.activations,
        )
        return x.reshape(rows, length, -1)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns tanh of a linear layer over the hidden states of first tokens, `[..., D]` -> `[..., D]`."""
        return jnp.tanh(self.pooler(x))
