"""Masked language modelling: predicts the tokens behind masks from what is before and after them."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.data.batching.batch import TOKEN_LABELS, BatchSpec
from jaxft.data.batching.output_positions import LABELLED_TOKENS, OutputRule
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import WordBackbone
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.masked_token import MaskedTokenModel
from jaxft.layers.inputs import Inputs
from jaxft.layers.output_positions import gather, locate
from jaxft.layers.runtime import Runtime
from jaxft.losses import chunked
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import find_head, make_backbone
from jaxft.tasks.base import Arrays, Task
from jaxft.tasks.masked_lm.settings import Settings


class MaskedLM(Task):
    """Predicts masked tokens, by the head with which an encoder was pretrained."""

    predicts_tokens = True

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        self.labels = labels
        self.batch_spec = BatchSpec(TOKEN_LABELS, labelled_share=config.data.mask_probability)
        self._n_best = config.eval.n_best

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `MaskedTokenModel` over a backbone of `model_config`."""
        return MaskedTokenModel(
            cast(WordBackbone, make_backbone(model_config, runtime, rngs=rngs)),
            form=find_head(model_config, HeadKind.MASKED).form,
            rngs=rngs,
        )

    def loss(
        self, model: nnx.Module, batch: Arrays, dropout: DropoutSeed | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the cross-entropy in nats, summed over the masked tokens, and the number of these tokens."""
        assert isinstance(model, MaskedTokenModel)
        rows, length = batch["labels"].shape
        positions = locate(batch.get("output_positions"), rows, length)
        x = model.backbone(Inputs.from_batch(batch), dropout).reshape(rows * length, -1)
        # The head, like the last layer, computes only what the loss reads.
        labels, weights = (
            gather(batch[name].reshape(-1, 1), positions)[:, 0] for name in ("labels", "weights")
        )
        vectors, bias = model.word_vectors()
        hidden, mesh = model.head(gather(x, positions)), model.backbone.runtime.mesh
        return chunked.chunked_cross_entropy(hidden, vectors, labels, weights, bias=bias, mesh=mesh)

    def logits(self, model: nnx.Module, batch: Arrays) -> jax.Array:
        """Returns the logits of every token without dropout, float32 [R, L, vocabulary]."""
        return model(Inputs.from_batch(batch))

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns outputs for each position, and the loss; 0 and False where nothing is predicted.

        The outputs are "is_predicted", bool [R, L]; "nll", float32 [R, L], in nats; "words", int32 [R, L, K], the most
        probable tokens; and "probabilities", float32 [R, L, K].
        """
        assert isinstance(model, MaskedTokenModel)
        rows, length = batch["labels"].shape
        hidden = model.head(model.backbone(Inputs.from_batch(batch), None)).reshape(rows * length, -1)
        (vectors, bias), weights = model.word_vectors(), batch["weights"].ravel()
        count = min(self._n_best, len(vectors))
        labels, mesh = batch["labels"].ravel(), model.backbone.runtime.mesh
        nll, words, probabilities = chunked.chunked_predictions(
            hidden, vectors, labels, weights, count=count, bias=bias, mesh=mesh
        )
        outputs = {
            "is_predicted": batch["weights"] > 0,
            "nll": nll.reshape(rows, length),
            "words": words.reshape(rows, length, count),
            "probabilities": probabilities.reshape(rows, length, count),
        }
        return outputs, jnp.sum(nll * weights), jnp.sum(weights)

    def output_rule(self, model_config: ModelConfig) -> OutputRule:
        """Returns the rule of labelled tokens, which are the masked ones."""
        return LABELLED_TOKENS
