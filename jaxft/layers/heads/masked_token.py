"""Predicts the tokens behind masks, as in the pretraining of encoders (Devlin et al., 2019, section 3.1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import WordBackbone
from jaxft.layers.heads.classification import PLAIN_FORM, HeadForm
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
      form: its layers, with activation and norm.
      initializer_range: the standard deviation of new weights.
      has_decoder: whether it has a layer of its own.
    """

    def __init__(
        self,
        in_features: int,
        size: int,
        words: int,
        *,
        form: HeadForm,
        initializer_range: float,
        has_decoder: bool,
        rngs: nnx.Rngs,
    ):
        assert form.activation is not None and form.norm_epsilon is not None
        make_linear = functools.partial(Linear, initializer_range=initializer_range, rngs=rngs)
        self.transform = make_linear(in_features, size, use_bias=form.has_dense_bias)
        self.norm = LayerNorm(size, epsilon=form.norm_epsilon, use_bias=form.has_norm_bias)
        if has_decoder:
            self.decoder = make_linear(size, words, use_bias=form.has_bias)
        elif form.has_bias:
            self.bias = make_parameter(jnp.zeros((words,), jnp.float32), Role(Kind.BIAS))
        self.activation, self.has_bias, self.has_decoder = form.activation, form.has_bias, has_decoder

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the vectors that words are scored by: `[..., D]` of any float dtype -> `[..., E]` of the same."""
        return self.norm(ACTIVATIONS[self.activation](self.transform(x)))


class MaskedTokenModel(nnx.Module):
    """A masked language model: a backbone, whose states see what is before and after them, and a `MaskedTokenHead`.

    Args:
      backbone: called like `Bert`; has its word embeddings at `embeddings.word`. Its config says whether these are also
        the output layer.
      form: the head's layers. Where it has no activation or norm, they are like those of the backbone.
    """

    def __init__(self, backbone: WordBackbone, *, form: HeadForm = PLAIN_FORM, rngs: nnx.Rngs):
        self.backbone = backbone
        config = backbone.config
        activation, epsilon = form.activation or config.activation, form.norm_epsilon or config.layer_norm_eps
        words, size = backbone.embeddings.word.embedding.shape
        self.head = MaskedTokenHead(
            config.hidden_size,
            size,
            words,
            form=dataclasses.replace(form, activation=activation, norm_epsilon=epsilon),
            initializer_range=config.initializer_range,
            has_decoder=not config.ties_word_embeddings,
            rngs=rngs,
        )

    def word_vectors(self) -> tuple[jax.Array, jax.Array]:
        """Returns the output layer: a vector of each word, `[V, E]`, and a bias of each word, `[V]`."""
        scores = self.head.decoder if self.head.has_decoder else self.head
        table = self.backbone.embeddings.word.embedding[...]
        vectors = self.head.decoder.kernel[...].T if self.head.has_decoder else table
        return vectors, scores.bias[...] if self.head.has_bias else jnp.zeros(len(vectors), vectors.dtype)

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of the token at each position, `[R, L, V]` of at least float32."""
        x = self.head(self.backbone(inputs, dropout))
        vectors, bias = self.word_vectors()
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.matmul(x, vectors.T.astype(x.dtype), preferred_element_type=dtype) + bias
