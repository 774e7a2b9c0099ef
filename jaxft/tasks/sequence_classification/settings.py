"""Settings of sequence classification."""

import dataclasses

from jaxft.config.settings import require, setting
from jaxft.tasks.labels.settings import LabelData, LabelModel, LabelSettings
from jaxft.tasks.settings import SegmentData


@dataclasses.dataclass(frozen=True)
class Model(LabelModel):
    """The model of a text classifier."""

    pool: str = setting(
        "auto",
        "what the head reads of a text; `auto` is what transformers' class for the model reads: `pooler`, `last`, the "
        "last token, or `cls`, the first one",
        choices=("auto", "pooler", "cls", "last", "mean", "max"),
    )


@dataclasses.dataclass(frozen=True)
class Data(LabelData, SegmentData):
    """Texts, or pairs of texts, with labels."""

    text: str = setting("text", "key or column of the text", hf="text_column_names")
    text_pair: str | None = setting(
        None, "key or column of a second text, which is read together with the first"
    )
    truncation: str = setting(
        "head",
        "what is read of a text that is longer than a window; `windows` reads all of it, in several",
        choices=("head", "tail", "head+tail", "windows"),
    )


@dataclasses.dataclass(frozen=True)
class Settings(LabelSettings):
    """The settings of a sequence classification run."""

    model: Model = Model()
    data: Data = Data()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        for key in ("text", "text_pair"):
            is_same = self.data.label == getattr(self.data, key)
            require(not is_same, "data.label", self.data.label, f"another key than that of config.data.{key}")
