"""Says how a model that classifies texts is exported."""

from typing import Any

from jaxft.tasks.exports import Export
from jaxft.tasks.sequence_classification.task import has_transformers_class, resolve_pool


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

    def describe_head(self) -> dict[str, Any]:
        """Returns the kind of labels, the pooling, and thresholds."""
        pool = resolve_pool(self.run.config, self.run.checkpoint.hf_config["model_type"])
        return {"problem_type": self.run.config.model.problem_type, "pool": pool, **self.run.tuned}
