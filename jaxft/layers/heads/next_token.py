"""Predicts each position's next token."""

import jax
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import LanguageBackbone
from jaxft.layers.inputs import Inputs


class LanguageModel(nnx.Module):
    """A causal language model: a backbone called like `GPT2`, whose `compute_logits` scores the vocabulary."""

    def __init__(self, backbone: LanguageBackbone):
        self.backbone = backbone

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the logits of the next token at each position, float32 `[R, L, V]`."""
        return self.backbone.compute_logits(self.backbone(inputs, dropout))
