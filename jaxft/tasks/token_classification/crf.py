"""CRF tagging: token classification that scores all labels of a sentence jointly, by a linear-chain CRF."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.layers.heads import crf
from jaxft.layers.heads.token import TokenClassifier
from jaxft.tasks.base import Arrays
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.tasks.token_classification.settings import Settings
from jaxft.tasks.token_classification.task import TokenClassification

# The score of forbidden transitions in training; with -inf the loss of a chain with such a transition is infinite.
FORBIDDEN = -1e4
# Paths of the CRF's parameters, which are next to the linear layer.
CHAIN = {f"head/{name}": name for name in crf.Chain._fields}


def make_task(labels: list[str], config: Settings, head_dropout: float) -> TokenClassification:
    """Returns the task of a token classification run: with a CRF or without."""
    task_class = CRFTagging if config.model.crf else TokenClassification
    return task_class(labels, config, head_dropout)


class CRFTagging(TokenClassification):
    """Token classification with a chain over words. Emissions are the logits at the words' first (or last) subwords.

    In training, the words that a window scores form a chain. A long sentence has a chain in each of its windows, so the
    start and end scores also apply where it is cut. Predictions use one chain for each sentence, because every word
    gets its emissions from one window. With `config.model.constraints`, the likelihood excludes transitions that IOB2
    forbids. Predictions also exclude an I- at the start of a sentence; in training it may begin a window. The loss is
    per word (the sum over chains divided by the number of words), so the learning rates of the softmax head fit.
    """

    head_class = crf.CRFHead

    def __init__(self, labels: list[str], config: Settings, head_dropout: float):
        super().__init__(labels, config, head_dropout)
        self.allowed = (
            tag_schemes.find_allowed_transitions(labels)
            if config.model.constraints and forms_entities(config, labels)
            else None
        )

    def decoding_chain(self, model: nnx.Module) -> crf.Chain:
        """Returns the scores for predictions, with -inf for transitions that the constraints forbid."""
        chain = _trained_chain(model)
        if self.allowed is None:
            return chain
        start, transitions = self.allowed
        return chain._replace(
            start=jnp.where(start, chain.start, -jnp.inf),
            transitions=jnp.where(transitions, chain.transitions, -jnp.inf),
        )

    def _loss(self, model: nnx.Module, logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        """Returns the negative log-likelihood summed over chains, and the number of words."""
        chain = _trained_chain(model)
        if self.allowed is not None:
            chain = chain._replace(transitions=jnp.where(self.allowed[1], chain.transitions, FORBIDDEN))
        return crf.negative_log_likelihood(
            logits, batch["labels"], batch["weights"], batch["segment_ids"], chain
        )

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns None: without its transitions, the scores of a CRF mean something else."""
        return None

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> Arrays:
        """Returns {"emissions": float32 [R, L, C]} and the arrays of `decoding_chain`."""
        crf.compile_best_paths(len(self.labels))  # while XLA compiles the step, so that no evaluation waits
        return {"emissions": logits, **self.decoding_chain(model)._asdict()}


def _trained_chain(model: nnx.Module) -> crf.Chain:
    """Returns the parameters of the chain as they are trained."""
    return cast(crf.CRFHead, cast(TokenClassifier, model).head).chain()  # as `build_model` has made it
