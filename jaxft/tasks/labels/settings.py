"""Settings of tasks whose examples each have a label, several labels or a number."""

import dataclasses

from jaxft.config import sections
from jaxft.config.settings import Check, is_finite, refuse, require, setting, texts
from jaxft.tasks.settings import LabelLoss


@dataclasses.dataclass(frozen=True)
class LabelModel(sections.Model):
    """The model of a classifier."""

    problem_type: str = setting(
        "single_label_classification",
        "what an example has: one label, several labels (a list, or a string with separators), or a number",
        choices=("single_label_classification", "multi_label_classification", "regression"),
        hf="do_regression",
    )


@dataclasses.dataclass(frozen=True)
class LabelData(sections.Data):
    """Examples with labels."""

    label: str = setting(
        "label",
        "key or column of the label, or several with commas between, which are 0 or 1 for each example",
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
        "text between the labels of one example, where they are not a list",
        check=Check(bool, "one or more characters"),
    )
    label_range: tuple[float, ...] = setting(
        (),
        "range of numbers to predict, such as (0.0, 5.0): learnt as 0 to 1; (): as they are",
        example="(0.0, 5.0)",
    )


@dataclasses.dataclass(frozen=True)
class LabelEval(sections.Eval):
    """The evaluation of a classifier."""

    thresholds: str = setting(
        "one",
        "thresholds of several labels an example, tuned on dev: one for all, one a `label`, or `none`: 0.5",
        choices=("one", "label", "none"),
    )


@dataclasses.dataclass(frozen=True)
class LabelSettings(sections.Settings):
    """The settings of a run whose examples have labels."""

    model: LabelModel = LabelModel()
    data: LabelData = LabelData()
    loss: LabelLoss = LabelLoss()
    eval: LabelEval = LabelEval()

    def check(self) -> None:
        """Raises `UserError` for settings that contradict each other."""
        super().check()
        self.loss.check_class_weights()
        self._check_label_names()
        bounds = self.data.label_range
        is_range = (
            len(bounds) == 2
            and all(isinstance(bound, int | float) and is_finite(bound) for bound in bounds)
            and bounds[0] < bounds[1]
        )
        expected = "two numbers, the smaller first, such as (0.0, 5.0), or ()"
        require(not bounds or is_range, "data.label_range", bounds, expected)

    def _check_label_names(self) -> None:
        """Raises `UserError` if the names of labels cannot be used."""
        data, names = self.data, self.data.label_names
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
