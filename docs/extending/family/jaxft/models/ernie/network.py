"""Defines ERNIE (Sun et al., 2019), an encoder with BERT's embeddings and layers, over packed rows."""

from jaxft.layers.transformer.encoder import Encoder


class Ernie(Encoder):
    """The encoder, without a head."""
