"""Says how a model that labels words is exported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

from jaxft.data.encoding.sentences import choose_stride
from jaxft.data.encoding.tokenizer import find_special_tokens
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import find_head, read_model_config
from jaxft.tasks.exports import Export, HeadAnswer, describe_layers
from jaxft.tasks.token_classification.crf import CHAIN, CRFTagging
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.tasks.token_classification.settings import Settings

if TYPE_CHECKING:
    from jaxft.tasks.base import Answer, Json, Task
    from jaxft.tasks.token_classification.evaluation import Prediction


class TagExport(Export[Settings, Sentence, "Prediction"]):
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
        if not isinstance(task, CRFTagging):
            return {}
        return {name: np.asarray(scores) for name, scores in task.decoding_chain(model)._asdict().items()}

    def describe_head(self) -> dict[str, "Json"]:
        """Returns the layers before the output layer."""
        return describe_layers(
            find_head(read_model_config(self.run.checkpoint.hf_config), HeadKind.TOKEN).form
        )

    def describe_reading(self) -> dict[str, "Json"]:
        """Returns the windows of words, which `data.encoding.sentences` makes in training."""
        data, tokenizer = self.run.config.data, self.run.checkpoint.tokenizer
        before, after = find_special_tokens(tokenizer)
        return {
            "words": {
                "max_length": data.max_length,
                "stride": choose_stride(data.stride, data.max_length - len(before) - len(after)),
                "before": before,
                "after": after,
                "subword": "last" if data.label_subwords == "last" else "first",
            }
        }

    def loader_input(self, sentence: Sentence) -> tuple[Sequence[str]]:
        """Returns the words."""
        return (sentence.words,)

    def loader_answers(self, prediction: "Prediction", answer: "Answer") -> dict[str, HeadAnswer]:
        """Returns the tags."""
        return {self.head_name: prediction.tags}
