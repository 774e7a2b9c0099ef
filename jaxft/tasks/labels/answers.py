"""Makes answers of the scores of labelled examples.

Single labels add `predicted_label` and its probability `score`; several labels add `predicted_labels` and `scores` by
label; numbers add `predicted_value`. In tables, several labels are separated as in training, and their scores by
spaces.
"""

from collections.abc import Sequence

import numpy as np

from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE
from jaxft.tasks.base import Answers, Example, Json
from jaxft.tasks.labels.label_types import make_label_type
from jaxft.tasks.labels.settings import LabelSettings
from jaxft.tasks.run_facts import RunFacts

# Kind of labels -> keys of an answer.
KEYS = {
    SINGLE: ("predicted_label", "score"),
    MULTI: ("predicted_labels", "scores"),
    NUMBER: ("predicted_value",),
}


class LabelAnswers(Answers[Example, np.ndarray]):
    """The answers of a run with labels. The prediction for an example is its scores, float64 [C]."""

    def __init__(self, run: RunFacts[LabelSettings]):
        """Takes the kind of labels from the run's settings."""
        self._separator = run.config.data.label_separator
        self._label_type, self._tuned = make_label_type(run.labels, run.config), run.tuned
        self._keys = KEYS[run.config.model.problem_type]

    def keys(self, example: Example | None) -> Sequence[str]:
        """Returns the keys of the answer to any example."""
        return self._keys

    def render(self, example: Example, scores: np.ndarray) -> dict[str, Json]:
        """Returns the answer to an example."""
        [answer] = self._label_type.answer(scores[None], self._tuned)
        return answer

    def format_cell(self, value: Json) -> str:
        """Returns the text of a cell for a label or a number, for several labels, or for their scores."""
        if isinstance(value, list):
            return self._separator.join(value)
        return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
