"""Says how a model that classifies texts is exported."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.tasks.exports import Export
from jaxft.tasks.sequence_classification.number_label import VALUE
from jaxft.tasks.sequence_classification.task import (
    SequenceClassification,
    has_transformers_class,
    resolve_pool,
)


class TextExport(Export):
    """Exports a model that classifies texts."""

    @property
    def head_name(self) -> str:
        """Returns the key of labels in the data."""
        return self.run.config.data.label

    @property
    def has_class(self) -> bool:
        """Returns whether transformers' class pools the states as the model does, and has the bias that it needs."""
        return has_transformers_class(self.run.config, self.run.checkpoint.hf_config["model_type"])

    @property
    def needs_loader(self) -> bool:
        """Returns whether there is no class, or a pipeline would read only the beginning of a long text."""
        return self.run.config.data.truncation != "head" or not self.has_class

    def config_fields(self) -> dict[str, Any]:
        """Returns the kind of labels, the token that follows a text, and thresholds, which transformers only keeps."""
        return {
            "problem_type": self.run.config.model.problem_type,
            "pad_token_id": self.run.checkpoint.tokenizer.pad_token_id,
            **self.run.tuned,
        }

    def to_transformers(
        self, task: SequenceClassification, parameters: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns the parameters, with a head whose numbers are in the data's units."""
        if task.labels != [VALUE]:
            return parameters
        offset, scale = task.label_type.offset, task.label_type.scale
        [kernel] = parameters.keys() & {"head/kernel", "head/score/kernel"}  # GPT-2's head has no bias
        bias = parameters.get("head/bias", np.zeros(1, np.float32)) * scale + offset
        return parameters | {kernel: parameters[kernel] * scale, "head/bias": bias}

    def describe_head(self) -> dict[str, Any]:
        """Returns the kind of labels, the pooling, and thresholds."""
        pool = resolve_pool(self.run.config, self.run.checkpoint.hf_config["model_type"])
        return {"problem_type": self.run.config.model.problem_type, "pool": pool, **self.run.tuned}

    def loader_input(self, example: LabelledText) -> tuple[str, str | None]:
        """Returns the text and its pair."""
        return example.text, example.pair

    def loader_answers(self, prediction: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the number, the label or the set of labels."""
        for key in ("predicted_value", "predicted_label"):
            if key in answer:
                return {self.head_name: answer[key]}
        return {self.head_name: set(answer["predicted_labels"])}
