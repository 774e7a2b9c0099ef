"""Extractive question answering: finds the span of a context that answers a question, or finds no answer."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxft.data.batching.batch import BatchSpec, segment_labels
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.losses import cross_entropy
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import find_head, make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.checkpoint_heads import has_head
from jaxft.tasks.question_answering.data import OUTPUTS
from jaxft.tasks.question_answering.settings import Settings
from jaxft.tasks.settings import resolve_max_segments


class QuestionAnswering(Task):
    """Predicts spans as in transformers' `BertForQuestionAnswering`: logits of first and last token; CLS is no answer.

    A window has a question and a piece of its context. Several windows share a row, and each has a separate softmax.
    """

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.head_dropout = head_dropout
        self.batch_spec = BatchSpec(segment_labels(np.int32, (2,)), resolve_max_segments(config.data))

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `TokenClassifier` with two outputs."""
        return TokenClassifier(
            make_backbone(model_config, runtime, rngs=rngs),
            num_labels=len(OUTPUTS),
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            form=find_head(model_config, HeadKind.QUESTION).form,
        )

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns `cross_entropy.span_cross_entropy`, and the number of windows."""
        return _loss(_logits(model, batch, dropout), batch)

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the logits of every token to be first and last, without dropout, float32 [R, L, 2]."""
        return _logits(model, batch, None)

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns {"logits": float32 [R, L, 2]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits}, *_loss(logits, batch)

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the outputs in the head of a checkpoint that answers questions: all have the same."""
        return list(range(len(OUTPUTS))) if has_head(hf_config, "ForQuestionAnswering") else None


def _logits(model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None) -> jax.Array:
    return model(Inputs.from_batch(batch), dropout=dropout)


def _loss(logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
    spans = batch["starts"][..., None] + batch["labels"]
    return cross_entropy.span_cross_entropy(logits, batch["segment_ids"], spans, batch["weights"])
