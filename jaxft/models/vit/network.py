"""Defines ViT (Dosovitskiy et al., 2021, section 3.1): a transformer encoder over the patches of an image.

The network is the paper's. Each patch becomes a vector by a linear layer. A class token precedes them, and positions
are added. Then each layer applies self-attention and an MLP; LayerNorm precedes each of them ("pre-norm"), and dropout
and a residual connection follow. A norm follows the last layer. The state of the class token is the feature of the
image. DeiT (Touvron et al., 2021) has a second token, for distillation, which heads do not read here.

Activations are flat, `[R * L, D]`, and the layers are one module with stacked parameters. In shapes, R is the number of
images, L the number of positions (tokens and patches), and D the hidden size.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.convolution.inputs import ImageInputs
from jaxft.layers.convolution.patches import PatchEmbedding
from jaxft.layers.dropout import DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import OutputPositions, gather, locate
from jaxft.layers.precision import widen
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.sharding import constrain_sharding
from jaxft.layers.transformer.encoder_layer import SelfAttention
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers
from jaxft.layers.transformer.mlp import MLP
from jaxft.models.vit.config import ViTConfig


class Embeddings(nnx.Module):
    """The vectors of special tokens and of patches, to which those of positions are added (equation 1)."""

    def __init__(self, config: ViTConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size, deviation = config.hidden_size, config.initializer_range
        self.patches = PatchEmbedding(
            config.patch_size,
            size,
            uses=config.patches,
            initializer_range=deviation,
            runtime=runtime,
            rngs=rngs,
        )
        self.class_token = Embedding(1, size, initializer_range=deviation, rngs=rngs)
        if config.special_tokens == 2:
            self.distillation_token = Embedding(1, size, initializer_range=deviation, rngs=rngs)
        self.position = Embedding(config.positions, size, initializer_range=deviation, rngs=rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, pixels: jax.Array, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the embeddings `[R * L, D]` of `runtime.dtype`, for pixels `[R, H, W, 3]`. Dropout has the site 0."""
        patches = widen(self.patches(pixels))
        rows, _, size = patches.shape
        tokens = [self.class_token.embedding[...]]
        if self.config.special_tokens == 2:
            tokens.append(self.distillation_token.embedding[...])
        first = jnp.broadcast_to(widen(jnp.concatenate(tokens)), (rows, len(tokens), size))
        x = jnp.concatenate([first, patches], axis=1) + widen(self.position.embedding[...])
        x = constrain_sharding(x.astype(self.runtime.dtype).reshape(-1, size), self.runtime.activations)
        return apply_dropout(x, self.config.hidden_dropout, dropout, 0, rows=rows)


class Layer(nnx.Module):
    """An encoder layer (equations 2 and 3): attention and MLP, each after a norm, then dropout and a residual."""

    def __init__(self, config: ViTConfig, runtime: Runtime, *, rngs: nnx.Rngs):
        size, deviation = config.hidden_size, config.initializer_range
        self.attention_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.attention = SelfAttention(config, runtime, rngs=rngs, use_input_bias=config.has_attention_bias)
        self.mlp_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.mlp = MLP(
            size,
            config.intermediate_size,
            activation=config.activation,
            initializer_range=deviation,
            output_range=deviation,
            layout=runtime.layout,
            rngs=rngs,
        )
        self.rate = config.hidden_dropout

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

        def drop(update: jax.Array, site: int | jax.Array) -> jax.Array:
            rows = segment_ids.shape[0]
            return apply_dropout(update, self.rate, seed, site, rows=rows, output_positions=output_positions)

        attended = self.attention(self.attention_norm(x), segment_ids, seed, site, output_positions)
        x = gather(x, output_positions) + drop(attended, site + 1)
        return x + drop(self.mlp(self.mlp_norm(x)), site + 2)


class ViT(nnx.Module):
    """The encoder, without a head. Parameters are float32. The layers' parameters are stacked under `layers/`."""

    def __init__(self, config: ViTConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        self.embeddings = Embeddings(config, runtime, rngs=rngs)
        self.layers = make_stack(lambda rngs: Layer(config, runtime, rngs=rngs), config.num_layers, rngs)
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: ImageInputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the states of class tokens after the last norm, `[R, D]` of `runtime.dtype`.

        Args:
          inputs: the batch's arrays; pixels are of `config.image_size`.
          dropout: the seed of dropout; None for no dropout.
        """
        rows, length = len(inputs.pixels), self.config.positions
        segment_ids = jnp.ones((rows, length), jnp.int32)
        class_tokens = locate(jnp.zeros((rows, 1), jnp.int32), rows, length)

        def run_layer(layer, x, _, site, output_positions):
            return layer(x, segment_ids, dropout, site, output_positions)

        x = self.embeddings(inputs.pixels, dropout)
        functions = [run_layer] * self.config.num_layers
        # The last layer computes the class token alone, unless it would be copied out of scanned ones.
        asked = class_tokens if self.runtime.unroll else None
        x = run_layers(self.layers, x, functions, self.runtime, asked, rows=rows, dropout=dropout)
        return self.norm(x if self.runtime.unroll else gather(x, class_tokens))
