"""Settings of question answering."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import at_least, setting
from jaxft.tasks.settings import RecordData, SegmentData


@dataclasses.dataclass(frozen=True)
class Data(RecordData, SegmentData):
    """Questions about contexts, with answers."""


@dataclasses.dataclass(frozen=True)
class Eval(sections.Eval):
    """The search for answers."""

    n_best: int = setting(
        20,
        "answers to a question that are kept; as many first and last tokens are combined",
        check=at_least(1),
        hf="n_best_size",
    )
    max_answer: int = setting(
        30, "tokens of a predicted answer at most", check=at_least(1), hf="max_answer_length"
    )


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a question answering run."""

    data: Data = Data()
    eval: Eval = Eval()
