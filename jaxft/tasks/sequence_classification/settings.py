"""Settings of sequence classification."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import Check, is_finite, refuse, require, setting, texts
from jaxft.tasks.settings import LabelLoss, SegmentData


@dataclasses.dataclass(frozen=True)
class Model(sections.Model):
    """The model of a text classifier."""

    problem_type: str = setting(
        "single_label_classification",
        "what a text has: one label, several labels (a list, or a string with separators), or a number",
        choices=("single_label_classification", "multi_label_classification", "regression"),
        hf="do_regression",
    )
    pool: str = setting(
        "auto",
        "what the head reads of a text; `auto` is what transformers' class for the model reads: `pooler`, `last`, the "
        "last token, or `cls`, the first one",
        choices=("auto", "pooler", "cls", "last", "mean", "max"),
    )


@dataclasses.dataclass(frozen=True)
class Data(SegmentData):
    """Texts, or pairs of texts, with labels."""

    text: str = setting("text", "key or column of the text", hf="text_column_names")
    text_pair: str | None = setting(
        None, "key or column of a second text, which is read together with the first"
    )
    label: str = setting(
        "label",
        "key or column of the label, or several with commas between, which are 0 or 1 for each text",
        hf="label_column_name",
    )
    label_names: tuple[str, ...] = setting(
        (),
        "labels in the order of the model's outputs, for which integers and lists of 0 and 1 stand; (): from the data",
        check=texts("labels, ('neg', 'pos')"),
        example="('neg', 'pos')",
    )
    label_separator: str = setting(
        ",",
        "text between the labels of one text, where they are not a list",
        check=Check(bool, "one or more characters"),
    )
    label_range: tuple[float, ...] = setting(
        (),
        "range of numbers to predict, such as (0.0, 5.0): learnt as 0 to 1; (): as they are",
        example="(0.0, 5.0)",
    )
    truncation: str = setting(
        "head",
        "what is read of a text that is longer than a window; `windows` reads all of it, in several",
        choices=("head", "tail", "head+tail", "windows"),
    )


@dataclasses.dataclass(frozen=True)
class Eval(sections.Eval):
    """The evaluation of a text classifier."""

    thresholds: str = setting(
        "one",
        "thresholds of several labels a text, tuned on dev: one for all, one a `label`, or `none`: 0.5",
        choices=("one", "label", "none"),
    )


@dataclasses.dataclass(frozen=True)
class Settings(sections.Settings):
    """The settings of a sequence classification run."""

    model: Model = Model()
    data: Data = Data()
    loss: LabelLoss = LabelLoss()
    eval: Eval = Eval()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        self.loss.check_class_weights()
        self._check_labels()
        bounds = self.data.label_range
        is_range = (
            len(bounds) == 2
            and all(isinstance(bound, int | float) and is_finite(bound) for bound in bounds)
            and bounds[0] < bounds[1]
        )
        expected = "two numbers, the smaller first, such as (0.0, 5.0), or ()"
        require(not bounds or is_range, "data.label_range", bounds, expected)

    def _check_labels(self) -> None:
        """Raises `UserError` if labels are read from a text's key, or their names cannot be used."""
        data, names = self.data, self.data.label_names
        for key in ("text", "text_pair"):
            is_same = data.label == getattr(data, key)
            require(not is_same, "data.label", data.label, f"another key than that of config.data.{key}")
        expected = "two or more labels, each once, or ()"
        require(not names or len(set(names)) == len(names) > 1, "data.label_names", names, expected)
        if names and self.model.problem_type == "regression":
            raise refuse(
                "data.label_names",
                names,
                "(), because config.model.problem_type='regression' predicts numbers",
            )
        if names and "," in data.label:
            raise refuse(
                "data.label_names",
                names,
                "(), because config.data.label names several keys, which are the labels",
            )
