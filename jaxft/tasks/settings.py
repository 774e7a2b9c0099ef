"""Settings that several tasks share. The settings of a single task are in its folder's `settings.py`."""

import dataclasses
from typing import Any, ClassVar

from jaxft.config import sections
from jaxft.config.settings import (
    below_one,
    is_finite,
    not_negative,
    optional_at_least,
    positive,
    require,
    setting,
)
from jaxft.data.sources.formats import FileFormat


def make_file_format(data: Any) -> FileFormat:
    """Returns how the files of a run's data are read, as far as its settings say it."""
    return FileFormat(data.format, data.encoding, data.delimiter, data.max_text)


@dataclasses.dataclass(frozen=True)
class RecordData(sections.Data):
    """Data read from records whose keys have fixed roles."""

    columns: tuple[tuple[str, str], ...] = setting(
        (),
        "keys of JSON, CSV, Parquet and hub records, by role: `tokens`, `tags`, `text` and `spans` of words with tags; "
        "`id`, `question`, `context` and `answers` of questions; `text` of documents",
        pairs=str,
        example="(('tokens', 'words'),) or tokens=words,tags=ner_tags",
        hf="text_column_name, label_column_name",
    )


@dataclasses.dataclass(frozen=True)
class DocumentData(RecordData):
    """Documents of text."""

    documents: str = setting(
        "line",
        "documents of a text file: its lines (`line`), all of it (`file`), or what stands between such lines",
    )
    layout: str = setting(
        "documents",
        "packed documents, each seeing itself only, or contiguous `blocks`, as `run_clm.py` and `run_mlm.py` cut them, "
        "but with an end of text after each document",
        choices=("documents", "blocks"),
        hf="line_by_line",
    )


@dataclasses.dataclass(frozen=True)
class DocumentSettings(sections.Settings):
    """The settings of a run whose data are documents."""

    reads_plain_text: ClassVar[bool] = True

    data: DocumentData = DocumentData()


@dataclasses.dataclass(frozen=True)
class SegmentData(sections.Data):
    """Data with labels for windows instead of tokens."""

    max_segments: int | None = setting(
        None, "windows in a row at most; unset: `max_length // 8`", check=optional_at_least(1)
    )


def resolve_max_segments(data: SegmentData) -> int:
    """Returns the most windows in a row: `max_segments`, or its default for rows of `max_length` tokens."""
    return data.max_segments or max(1, data.max_length // 8)


@dataclasses.dataclass(frozen=True)
class LabelLoss(sections.Loss):
    """The loss of labels of words or of texts."""

    weight: float = setting(1.0, "weight of the task among several on one backbone", check=positive())
    label_smoothing: float = setting(
        0.0, "share of the target that goes to all labels", check=below_one(), hf="label_smoothing_factor"
    )
    r_drop: float = setting(
        0.0,
        "weight of the divergence of two passes under different dropout masks (R-Drop), such as 1.0",
        check=not_negative(),
    )
    focal_gamma: float = setting(
        0.0, "exponent of the focal loss, such as 2.0; 0: cross-entropy", check=not_negative()
    )
    class_weights: tuple[tuple[str, float], ...] = setting(
        (),
        "weights of labels; labels that are not named weigh 1",
        pairs=int | float,
        example="(('O', 0.5),) or O=0.5,B-PER=2",
    )

    def check_class_weights(self) -> None:
        """Raises `UserError` for a weight that is not both finite and above 0."""
        weights = [weight for _, weight in self.class_weights]
        fits = all(weight > 0 and is_finite(weight) for weight in weights)
        require(fits, "loss.class_weights", self.class_weights, "finite weights above 0")
