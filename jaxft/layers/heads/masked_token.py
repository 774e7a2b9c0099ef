"""Predicts the tokens behind masks, as in the pretraining of encoders (Devlin et al., 2019, section 3.1)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import WordBackbone
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.parameters import Kind, Role, make_parameter

# The parameters of the head, by path, whose last axis is the vocabulary.
WORD_PARAMETERS = ("head/bias", "head/decoder/kernel", "head/decoder/bias")


class MaskedTokenHead(nnx.Module):
    """A linear layer with activation and norm, and what scores the words: a table of vectors and a bias.

    The vectors are the word embeddings, unless the head has a layer of its own for them, `decoder`.

    Args:
      in_features: D, the width of hidden states.
      size: E, the width of word embeddings.
      words: V, their number.
      activation: a key of `ACTIVATIONS`.
      epsilon: of the norm.
      initializer_range: the standard deviation of new weights.
      has_decoder: whether it has a layer of its own.
    """

    def __init__(
        self,
        in_features: int,
        size: int,
        words: int,
        *,
        activation: str,
        epsilon: float,
        initializer_range: float,
        has_decoder: bool,
        rngs: nnx.Rngs,
    ):
        self.transform = Linear(in_features, size, initializer_range=initializer_range, rngs=rngs)
        self.norm = LayerNorm(size, epsilon=epsilon)
        if has_decoder:
            self.decoder = Linear(size, words, initializer_range=initializer_range, rngs=rngs)
        else:
            self.bias = make_parameter(jnp.zeros((words,), jnp.float32), Role(Kind.BIAS))
        self.activation, self.has_decoder = activation, has_decoder

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the vectors that words are scored by: `[..., D]` of any float dtype -> `[..., E]` of the same."""
        return self.norm(ACTIVATIONS[self.activation](self.transform(x)))


class MaskedTokenModel(nnx.Module):
    """A masked language model: a backbone, whose states see what is before and after them, and a `MaskedTokenHead`.

    Args:
      backbone: called like `Bert`; has its word embeddings at `embeddings.word`.
      activation: the head's.
      ties_embeddings: whether the word embeddings are also the output layer.
    """

    def __init__(self, backbone: WordBackbone, *, activation: str, ties_embeddings: bool, rngs: nnx.Rngs):
        self.backbone = backbone
        config = backbone.config
        words, size = backbone.embeddings.word.embedding.shape
        self.head = MaskedTokenHead(
            config.hidden_size,
            size,
            words,
            activation=activation,
            epsilon=config.layer_norm_eps,
            initializer_range=config.initializer_range,
            has_decoder=not ties_embeddings,
            rngs=rngs,
        )

    def word_vectors(self) -> tuple[jax.Array, jax.Array]:
        """Returns the output layer: a vector of each word, `[V, E]`, and a bias of each word, `[V]`."""
        if self.head.has_decoder:
            return self.head.decoder.kernel[...].T, self.head.decoder.bias[...]
        return self.backbone.embeddings.word.embedding[...], self.head.bias[...]

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of the token at each position, `[R, L, V]` of at least float32."""
        x = self.head(self.backbone(inputs, dropout))
        vectors, bias = self.word_vectors()
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.matmul(x, vectors.T.astype(x.dtype), preferred_element_type=dtype) + bias
