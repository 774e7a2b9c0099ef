"""CRF tagging: token classification that scores all labels of a sentence jointly, by a linear-chain CRF."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, word_values
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.layers.heads import crf
from jaxft.tasks.base import Split
from jaxft.tasks.token_classification.task import TokenClassification

# The score of forbidden transitions in training; with -inf the loss of a chain with such a transition is infinite.
FORBIDDEN = -1e4
# Paths of the CRF's parameters, which are next to the linear layer.
CHAIN = {f"head/{name}": name for name in crf.Chain._fields}


def choose_class(config: Settings) -> type[TokenClassification]:
    """Returns the class that trains a token classification run: with a CRF or without."""
    return CRFTagging if config.model.crf else TokenClassification


class CRFTagging(TokenClassification):
    """Token classification with a chain over words. Emissions are the logits at the words' first (or last) subwords.

    In training, the words that a window scores form a chain. A long sentence has a chain in each of its windows, so the
    start and end scores also apply where it is cut. Predictions use one chain for each sentence, because every word
    gets its emissions from one window. With `config.model.constraints`, the likelihood excludes transitions that IOB2
    forbids. Predictions also exclude an I- at the start of a sentence; in training it may begin a window. The loss is
    per word (the sum over chains divided by the number of words), so the learning rates of the softmax head fit.
    """

    head_class = crf.CRFHead

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        super().__init__(labels, head_dropout=head_dropout, config=config)
        self.allowed = (
            tag_schemes.find_allowed_transitions(labels)
            if config.model.constraints and self.labels_form_entities
            else None
        )

    def decoding_chain(self, model: nnx.Module) -> crf.Chain:
        """Returns the scores for predictions, with -inf for transitions that the constraints forbid."""
        chain = model.head.chain()
        if self.allowed is None:
            return chain
        start, transitions = self.allowed
        return chain._replace(
            start=jnp.where(start, chain.start, -jnp.inf),
            transitions=jnp.where(transitions, chain.transitions, -jnp.inf),
        )

    def _loss(self, model: nnx.Module, logits: jax.Array, batch: dict[str, jax.Array]):
        """Returns the negative log-likelihood summed over chains, and the number of words."""
        chain = model.head.chain()
        if self.allowed is not None:
            chain = chain._replace(transitions=jnp.where(self.allowed[1], chain.transitions, FORBIDDEN))
        return crf.negative_log_likelihood(
            logits, batch["labels"], batch["weights"], batch["segment_ids"], chain
        )

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns None: without its transitions, the scores of a CRF mean something else."""
        return None

    def to_transformers(self, parameters):
        """Returns the backbone and the linear layer, because transformers has no CRF."""
        return {name: value for name, value in parameters.items() if name not in CHAIN}

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> dict[str, jax.Array]:
        """Returns {"emissions": float32 [R, L, C]} and the arrays of `decoding_chain`."""
        crf.compile_best_paths(len(self.labels))  # while XLA compiles the step, so that no evaluation waits
        return {"emissions": logits, **self.decoding_chain(model)._asdict()}

    def _predict_labels(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]], starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns label ids of the best paths and their probabilities. If any word is not scored, all ids are -1."""
        words = starts[-1]
        emissions = np.zeros((words, len(self.labels)), np.float32)
        is_scored = np.zeros(words, bool)
        label, probability = np.full(words, -1, np.int32), np.zeros(words, np.float32)
        arrays = None
        for batch, arrays in outputs:
            sentence, word, value = word_values(batch, split.windows, arrays["emissions"])
            emissions[starts[sentence] + word] = value
            is_scored[starts[sentence] + word] = True
        if arrays is not None and is_scored.all():
            chain = crf.Chain(
                *(arrays[name] for name in crf.Chain._fields)
            )  # the chain is the same in every batch
            label, probability = crf.find_best_paths(emissions, starts, chain)
        return label, probability
