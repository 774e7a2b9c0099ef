"""Settings of causal language modelling."""

import dataclasses
from typing import ClassVar

from jaxft.config import sections
from jaxft.config.settings import at_least, require, setting
from jaxft.tasks.settings import DocumentData, DocumentSettings


@dataclasses.dataclass(frozen=True)
class Data(DocumentData):
    """Texts, or pairs of prompt and target."""

    template: str | None = setting(
        None, r"makes prompt and target of records: `{article}\nHeadline: {headline}`"
    )


@dataclasses.dataclass(frozen=True)
class Eval(sections.Eval):
    """The generation of targets, which are then scored."""

    generate: int = setting(
        200,
        "pairs of a set, from its beginning, whose targets are generated and scored",
        check=at_least(0),
        hf="predict_with_generate",
    )
    max_new_tokens: int = setting(
        64, "tokens of a generated target at most", check=at_least(1), hf="generation_max_length"
    )
    beams: int = setting(
        1, "beams of the search for a target; 1: greedy", check=at_least(1), hf="generation_num_beams"
    )


@dataclasses.dataclass(frozen=True)
class Settings(DocumentSettings):
    """The settings of a language modelling run."""

    default_examples: ClassVar[int] = 8

    data: Data = Data()
    eval: Eval = Eval()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        if self.data.template is not None and self.eval.generate:
            fits = self.eval.max_new_tokens < self.data.max_length
            require(fits, "eval.max_new_tokens", self.eval.max_new_tokens, "less than max_length")
