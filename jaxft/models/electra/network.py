"""Defines ELECTRA (Clark et al., 2020), discriminator or generator: BERT's layers over embeddings of another width."""

from flax import nnx

from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.transformer.encoder import Encoder
from jaxft.models.electra.config import ElectraConfig


class Electra(Encoder):
    """The encoder, without a head."""

    def __init__(self, config: ElectraConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        super().__init__(config, runtime, rngs=rngs, embedding_size=config.embedding_size)
