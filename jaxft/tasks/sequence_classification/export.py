"""Says how a model that classifies texts is exported."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from jaxft.data.encoding.tokenizer import make_frame
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import read_model_config
from jaxft.tasks.base import Answer, Json, Task
from jaxft.tasks.exports import Export, HeadAnswer, describe_layers
from jaxft.tasks.labels.label_task import LabelTask
from jaxft.tasks.sequence_classification.settings import Settings
from jaxft.tasks.sequence_classification.task import (
    class_head,
    has_transformers_class,
    resolve_pool,
)


class TextExport(Export[Settings, LabelledText, np.ndarray]):
    """Exports a model that classifies texts."""

    @property
    def head_name(self) -> str:
        """Returns the key of labels in the data."""
        return self.run.config.data.label

    @property
    def _model_config(self) -> ModelConfig:
        """The shape of the backbone."""
        return read_model_config(self.run.checkpoint.hf_config)

    @property
    def has_class(self) -> bool:
        """Returns whether transformers' class pools the states as the model does, and has the bias that it needs."""
        return has_transformers_class(self.run.config, self._model_config)

    @property
    def needs_loader(self) -> bool:
        """Returns whether there is no class, or a pipeline would read only the beginning of a long text."""
        return self.run.config.data.truncation != "head" or not self.has_class

    def config_fields(self) -> dict[str, Json]:
        """Returns the kind of labels, the padding token, and thresholds, which transformers only keeps.

        transformers finds the last token of a text by the padding token, if it reads that one. In other families the
        checkpoint's padding token stays, because RoBERTa counts positions from it.
        """
        fields: dict[str, Json] = {"problem_type": self.run.config.model.problem_type, **self.run.tuned}
        if class_head(self._model_config).pool == "last":
            fields["pad_token_id"] = self.run.checkpoint.tokenizer.pad_token_id
        return fields

    def to_transformers(self, task: Task, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, with a head whose numbers are in the data's units."""
        assert isinstance(task, LabelTask)
        return task.to_data_units(parameters)

    def describe_head(self) -> dict[str, Json]:
        """Returns the kind of labels, the pooling, the layers before the output layer, and thresholds."""
        return {
            "problem_type": self.run.config.model.problem_type,
            "pool": resolve_pool(self.run.config, self._model_config),
            **describe_layers(class_head(self._model_config).form),
            **self.run.tuned,
        }

    def describe_reading(self) -> dict[str, Json]:
        """Returns the windows of texts and pairs, which `data.encoding.labelled_texts` makes in training."""
        data = self.run.config.data
        reading: dict[str, Json] = {
            "max_length": data.max_length,
            "truncation": data.truncation,
            "stride": data.stride or 0,
        }
        for name in ("text", "pair"):
            frame = make_frame(self.run.checkpoint.tokenizer, name == "pair")
            reading[name] = {"ids": [frame.before, frame.between, frame.after], "types": list(frame.types)}
        return reading

    def loader_input(self, example: LabelledText) -> tuple[str, str | None]:
        """Returns the text and its pair."""
        return example.text, example.pair

    def loader_answers(self, prediction: np.ndarray, answer: Answer) -> dict[str, HeadAnswer]:
        """Returns the number, the label or the set of labels."""
        for key in ("predicted_value", "predicted_label"):
            if key in answer:
                return {self.head_name: cast(float | str, answer[key])}
        return {self.head_name: set(cast(Sequence[str], answer["predicted_labels"]))}
