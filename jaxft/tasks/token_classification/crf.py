"""CRF tagging: token classification whose labels of a sentence are scored together, by a linear-chain CRF."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from jaxft.data.batching.batch import Batch, word_values
from jaxft.data.sources import tag_schemes
from jaxft.errors import UserError
from jaxft.layers import crf
from jaxft.tasks.base import Split
from jaxft.tasks.token_classification.task import TokenClassification

# In training, where -inf would make a chain of one forbidden step an infinite loss.
FORBIDDEN = -1e4
CHAIN = {f"head/{name}": name for name in crf.Chain._fields}  # parameters by path, beside the linear layer


class CRFTagging(TokenClassification):
    """Token classification with a chain over words: emissions are the logits at their first subwords, or last.

    In training the words that a window scores are a chain: of a long sentence each window's, so that its start and
    end scores also stand at the cut. Predictions are of whole sentences, for every word gets its emissions from one
    window. With `config.model.constraints` transitions that IOB2 rules out are left out of the likelihood, and of
    predictions also an I- at the start (in training it may begin a window). The loss is a word's: the sum over
    chains by the number of words, so that learning rates are those of the softmax head.
    """

    head = crf.CRFHead

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: ConfigDict):
        super().__init__(labels, head_dropout=head_dropout, config=config)
        if any(config.loss[key] for key in ("label_smoothing", "class_weights", "focal_gamma", "r_drop")):
            raise UserError(
                "config.loss.label_smoothing, .class_weights, .focal_gamma and .r_drop are not for "
                "config.task='crf_tagging', whose loss is of whole sequences; leave them out"
            )
        if config.data.label_subwords == "all":
            raise UserError(
                f"config.data.label_subwords={config.data.label_subwords!r}: with config.task='crf_tagging' the chain "
                "goes over words, expected 'first' or 'last'"
            )
        self.allowed = (
            tag_schemes.find_allowed_transitions(labels)
            if config.model.constraints and self.entities
            else None
        )

    def chain(self, model: nnx.Module) -> crf.Chain:
        """Scores for predictions: -inf where the constraints allow nothing."""
        chain = model.head.chain()
        if self.allowed is None:
            return chain
        start, transitions = self.allowed
        return chain._replace(
            start=jnp.where(start, chain.start, -jnp.inf),
            transitions=jnp.where(transitions, chain.transitions, -jnp.inf),
        )

    def _loss(self, model: nnx.Module, logits: jax.Array, batch: dict[str, jax.Array]):
        """Negative log-likelihood summed over chains, and the number of words."""
        chain = model.head.chain()
        if self.allowed is not None:
            chain = chain._replace(transitions=jnp.where(self.allowed[1], chain.transitions, FORBIDDEN))
        return crf.negative_log_likelihood(
            logits, batch["labels"], batch["weights"], batch["segment_ids"], chain
        )

    def to_transformers(self, parameters):
        """Body and linear layer."""
        return {name: value for name, value in parameters.items() if name not in CHAIN}

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> dict[str, jax.Array]:
        """{"emissions": float32 [R, L, C]} and the arrays of `chain`."""
        crf.compile_best_paths(len(self.labels))  # while this is compiled, so that no evaluation waits for it
        return {"emissions": logits, **self.chain(model)._asdict()}

    def _decide(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]], first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Label ids of the best paths and their probabilities, -1 if any word is not scored."""
        emissions = np.zeros((first[-1], len(self.labels)), np.float32)
        scored = np.zeros(first[-1], bool)
        label, probability = np.full(first[-1], -1, np.int32), np.zeros(first[-1], np.float32)
        arrays = None
        for batch, arrays in outputs:
            sentence, word, value = word_values(batch, split.windows, arrays["emissions"])
            emissions[first[sentence] + word] = value
            scored[first[sentence] + word] = True
        if arrays is not None and scored.all():
            chain = crf.Chain(*(arrays[name] for name in crf.Chain._fields))  # the same in every batch
            label, probability = crf.best_paths(emissions, first, chain)
        return label, probability
