"""Settings of masked language modelling."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import Check, at_least, setting
from jaxft.tasks.settings import DocumentData, DocumentSettings


@dataclasses.dataclass(frozen=True)
class Data(DocumentData):
    """Documents, and the tokens of theirs that are masked."""

    mask_probability: float = setting(
        0.15,
        "share of each window's tokens or words that are predicted; of these tokens 80% become masks, 10% random "
        "words, and 10% stay",
        check=Check(lambda value: 0 < value <= 1, "more than 0, at most 1"),
        hf="mlm_probability",
    )
    mask_whole_words: bool = setting(
        False, "masks all tokens of a word, or none of them", hf="whole_word_mask"
    )


@dataclasses.dataclass(frozen=True)
class Eval(sections.Eval):
    """The evaluation of the dev set, and what `predict` gives."""

    n_best: int = setting(5, "words that `predict` gives for each mask", check=at_least(1, 1000))


@dataclasses.dataclass(frozen=True)
class Settings(DocumentSettings):
    """The settings of a masked language modelling run."""

    data: Data = Data()
    eval: Eval = Eval()
