"""Defines and checks the options of text generation."""

import dataclasses

from jaxft.errors import UserError

PROMPT_ROWS = 8  # default number of prompts in a batch


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """The options of text generation: how tokens are chosen and how many. The default is greedy search.

    Raises:
      UserError: a value is out of range, or would have no effect.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0  # above 0: tokens are drawn at random from scores divided by it
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0  # n-grams of this size occur at most once; 0: no limit
    beams: int = 1
    length_penalty: float = 1.0  # a beam's score is divided by its length to this power
    early_stopping: bool = False  # stop when `beams` texts have ended, even if others may become better
    samples: int = 1  # texts for each prompt; beam search returns the best
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 (the likeliest token) or more"),
            ("top_k", self.top_k >= 0, "0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, up to 1 (no limit)"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 (no limit) and 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 is none"),
            ("no_repeat_ngram", self.no_repeat_ngram >= 0, "0 (no limit) or more"),
            ("beams", self.beams >= 1, "1 or more"),
            ("samples", self.samples >= 1, "1 or more"),
            ("seed", 0 <= self.seed < 2**32, "between 0 and 2^32 - 1"),
        ):
            if not fits:
                raise UserError(f"{name} is {getattr(self, name)}; expected {expected}")
        if self.temperature == 0:
            limits = {"top_k": self.top_k > 0, "top_p": self.top_p < 1, "min_p": self.min_p > 0}
            for name, is_set in limits.items():
                if is_set:
                    raise UserError(f"{name} has no effect at temperature 0; give a temperature, such as 1")
            if self.samples > self.beams:
                raise UserError(
                    f"samples is {self.samples}, but without chance all would be one text; give a temperature, "
                    "such as 1, or as many beams"
                )
        elif self.beams > 1:
            raise UserError(
                f"beams is {self.beams} and temperature {self.temperature}: beam search draws nothing; give one"
            )
