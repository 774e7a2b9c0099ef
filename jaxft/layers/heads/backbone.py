"""Defines what heads and generation know of a backbone, whichever its family."""

from typing import Protocol

import jax

from jaxft.layers.attention.interface import BackboneAdapter
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.embedding import Embedding
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime


class BackboneConfig(Protocol):
    """The shape of a backbone, as far as heads read it."""

    @property
    def hidden_size(self) -> int:
        """D, the width of hidden states."""

    @property
    def initializer_range(self) -> float:
        """The standard deviation of new weights."""

    @property
    def activation(self) -> str:
        """The activation of its layers, a key of `ACTIVATIONS`."""

    @property
    def layer_norm_eps(self) -> float:
        """The epsilon of norms."""


class Backbone(Protocol):
    """A network without a head. It is a module of flax."""

    @property
    def config(self) -> BackboneConfig:
        """The shape of the backbone."""

    @property
    def runtime(self) -> Runtime:
        """The way in which it computes."""

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the hidden states of each position, `[R, L, D]`."""


class PooledBackbone(Backbone, Protocol):
    """A backbone with a pooler."""

    def pool(self, x: jax.Array) -> jax.Array:
        """Applies the pooler to the hidden states of first tokens, `[..., D] -> [..., D]`."""


class StackConfig(BackboneConfig, Protocol):
    """The shape of a backbone that has a stack of layers."""

    @property
    def num_layers(self) -> int:
        """The number of layers."""


class WordEmbeddings(Protocol):
    """The embeddings of a backbone, which begin with those of words."""

    @property
    def word(self) -> Embedding:
        """A vector of each word."""


class WordConfig(BackboneConfig, Protocol):
    """The shape of a backbone that predicts words."""

    @property
    def ties_word_embeddings(self) -> bool:
        """True if word embeddings are also the output layer."""


class WordBackbone(Backbone, Protocol):
    """A backbone that reads and predicts words."""

    @property
    def config(self) -> WordConfig:
        """The shape of the backbone."""

    @property
    def embeddings(self) -> WordEmbeddings:
        """The first layers."""


class AdaptableBackbone(Protocol):
    """A backbone of text that may have an adapter."""

    adapter: BackboneAdapter | None

    @property
    def config(self) -> StackConfig:
        """The shape of the backbone."""

    @property
    def embeddings(self) -> WordEmbeddings:
        """The first layers."""


def count_virtual_tokens(backbone: AdaptableBackbone) -> int:
    """Returns the number of positions before those of texts."""
    adapters = backbone.adapter, backbone.embeddings.word.adapter
    return sum(adapter.count for adapter in adapters if adapter is not None)


class LanguageBackbone(WordBackbone, Protocol):
    """A backbone whose word embeddings are also its output layer."""

    def compute_logits(self, x: jax.Array) -> jax.Array:
        """Returns the logits of hidden states, `[R, L, D] -> float32 [R, L, V]`."""
