"""Defines DistilBERT (Sanh et al., 2019): BERT's network without token types, pooler and dropout after attention."""

from flax import nnx

from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Encoder
from jaxft.models.distilbert.config import DistilBertConfig


class DistilBert(Encoder):
    """The encoder, without a head."""

    def __init__(self, config: DistilBertConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        super().__init__(config, runtime, rngs=rngs, drops_attention_output=False)
