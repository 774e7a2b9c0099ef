"""Settings of token classification."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import Check, refuse, setting
from jaxft.errors import UserError
from jaxft.tasks.settings import LabelLoss, RecordData


@dataclasses.dataclass(frozen=True)
class Model(sections.Model):
    """The model of a token classifier."""

    crf: bool = setting(False, "a linear-chain CRF over words instead of a softmax for each word")
    constraints: bool = setting(
        True, "a CRF predicts only label sequences that IOB2 allows: no I-X but after B-X or I-X"
    )


_COLUMN = Check(lambda value: value is None or abs(value) < 10_000, "a column, from -9,999 to 9,999, or none")


@dataclasses.dataclass(frozen=True)
class Data(RecordData):
    """Sentences with a label for each word."""

    word_column: int | None = setting(
        None,
        "CoNLL column of the words, from 0, or from the end if negative; unset: the first, FORM of CoNLL-U, or what a "
        "header names",
        check=_COLUMN,
    )
    tag_column: int | None = setting(
        None,
        "CoNLL column of the tags; unset: the last, UPOS of CoNLL-U, or what a header names",
        check=_COLUMN,
    )
    offsets: str = setting(
        "auto",
        "what offsets of spans count; `auto`: characters, unless another fits the data better, which is an error",
        choices=("auto", "characters", "utf16", "bytes"),
    )
    span_end: str = setting(
        "auto",
        "the end of spans; `auto`: exclusive, unless inclusive fits the data better, which is an error",
        choices=("auto", "exclusive", "inclusive"),
    )
    overlaps: str = setting(
        "error",
        "spans of characters that overlap: an error, or the longest counts",
        choices=("error", "longest"),
    )
    scheme: str = setting(
        "auto",
        "scheme of the tags in the files, however they are spelled; `bioes` is also BMES and BMEWO; `none`: plain "
        "labels, which form no entities",
        choices=("auto", "iob1", "iob2", "bioes", "bilou", "io", "none"),
    )
    entity_type: str = setting(
        "ENT",
        "type of the entities whose tags name none: B, I and O alone",
        check=Check(lambda value: value.strip() == value != "", "a name"),
    )
    label_subwords: str = setting(
        "first",
        "subwords of a word that carry its label in training",
        choices=("first", "last", "all"),
        hf="label_all_tokens",
    )
    context: bool = setting(
        False, "fills windows with the document's neighbouring sentences, which are not scored"
    )


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a token classification run."""

    model: Model = Model()
    data: Data = Data()
    loss: LabelLoss = LabelLoss()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        self.loss.check_class_weights()
        if not self.model.crf:
            return
        names = ("label_smoothing", "class_weights", "focal_gamma", "r_drop")
        if any(getattr(self.loss, name) for name in names):
            raise UserError(
                "config.loss.label_smoothing, .class_weights, .focal_gamma and .r_drop are not for "
                "config.model.crf=True, whose loss is of whole sequences; leave them out"
            )
        if self.data.label_subwords == "all":
            raise UserError(
                "config.data.label_subwords='all': with config.model.crf=True the chain goes over words, expected "
                "'first' or 'last'"
            )

    def check_shards(self) -> None:
        """Raises `UserError` if the training data cannot be sharded."""
        super().check_shards()
        if self.data.scheme == "auto":
            raise refuse(
                "data.shards",
                self.data.shards,
                "1 unless config.data.scheme says how the data is tagged, which may not be seen in each shard alone",
            )
