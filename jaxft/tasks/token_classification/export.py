"""Says how a model that labels words is exported."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.tasks.exports import Export
from jaxft.tasks.token_classification.crf import CHAIN
from jaxft.tasks.token_classification.data import forms_entities

if TYPE_CHECKING:
    from jaxft.tasks.base import Json, Task
    from jaxft.tasks.token_classification.evaluation import Prediction


class TagExport(Export):
    """Exports a model that labels words."""

    labels_words = True

    @property
    def head_name(self) -> str:
        """Returns the name under which the loader gives tags."""
        return "tags"

    @property
    def needs_loader(self) -> bool:
        """Returns whether transformers' pipeline would tag otherwise.

        It has no CRF, joins neighbouring words with the same label, and reads a word's label at its first subword.
        """
        config = self.run.config
        is_read_otherwise = config.data.label_subwords == "last" or not forms_entities(
            config, self.run.labels
        )
        return config.model.crf or is_read_otherwise

    def to_transformers(self, task: "Task", parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the backbone and the linear layer, because transformers has no CRF."""
        return {name: value for name, value in parameters.items() if name not in CHAIN}

    def decoding_tensors(self, task: "Task", model: nnx.Module) -> dict[str, np.ndarray]:
        """Returns the scores of a CRF's chain; nothing without a CRF."""
        if not self.run.config.model.crf:
            return {}
        return {name: np.asarray(scores) for name, scores in task.decoding_chain(model)._asdict().items()}

    def loader_input(self, sentence: Sentence) -> tuple[Sequence[str]]:
        """Returns the words."""
        return (sentence.words,)

    def loader_answers(
        self, prediction: "Prediction", answer: Mapping[str, "Json"]
    ) -> dict[str, Sequence[str]]:
        """Returns the tags."""
        return {self.head_name: prediction.tags}
