"""Defines RoBERTa (Liu et al., 2019): BERT's network, whose positions are numbered from behind the padding token's id.

XLM-R (Conneau et al., 2020) and CamemBERT (Martin et al., 2020) are the same network.
"""

from jaxft.layers.transformer.encoder import Encoder


class Roberta(Encoder):
    """The encoder, without a head. Its first position is that of its config."""
