"""Causal language modelling: predicts the next token of documents, or of targets that follow prompts."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.data.batching.batch import TOKEN_LABELS, BatchSpec
from jaxft.data.batching.output_positions import LABELLED_TOKENS, OutputRule
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import LanguageBackbone
from jaxft.layers.heads.next_token import LanguageModel
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.losses import chunked
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.causal_lm.settings import Settings


class CausalLM(Task):
    """Next-token prediction by GPT-2, whose output layer is its word embeddings."""

    predicts_tokens = True
    batch_spec = BatchSpec(TOKEN_LABELS)

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `LanguageModel` over a GPT-2 backbone of `model_config`."""
        # A family with this kind of head predicts words by their embeddings.
        return LanguageModel(cast(LanguageBackbone, make_backbone(model_config, runtime, rngs=rngs)))

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the cross-entropy in nats, summed over the labelled tokens, and the number of these tokens."""
        assert isinstance(model, LanguageModel)
        mesh = model.backbone.runtime.mesh
        return chunked.chunked_cross_entropy(*_flat(model, batch, dropout), mesh=mesh)

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the logits of every next token without dropout, float32 [R, L, vocabulary]."""
        return model(Inputs.from_batch(batch))

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns {"nll": float32 [R, L] (nats), "correct": bool [R, L]}, 0 and False without a label; and the loss."""
        assert isinstance(model, LanguageModel)
        shape, mesh = batch["labels"].shape, model.backbone.runtime.mesh
        hidden, embedding, labels, weights = _flat(model, batch, None)
        nll, correct = chunked.chunked_scores(hidden, embedding, labels, weights, mesh=mesh)
        outputs = {"nll": nll.reshape(shape), "correct": correct.reshape(shape)}
        return outputs, jnp.sum(nll * weights), jnp.sum(weights)

    def output_rule(self, model_config: ModelConfig) -> OutputRule:
        """Returns the rule of labelled tokens."""
        return LABELLED_TOKENS


def _flat(
    model: LanguageModel, batch: Arrays, dropout: DropoutSeed | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns hidden states [R * L, D], the output embedding [vocabulary, D], labels [R * L] and weights [R * L]."""
    hidden = model.backbone(Inputs.from_batch(batch), dropout)
    return (
        hidden.reshape(-1, hidden.shape[-1]),
        model.backbone.embeddings.word.embedding[...],
        batch["labels"].ravel(),
        batch["weights"].ravel(),
    )
