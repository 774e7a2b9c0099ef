"""Makes texts to classify from the records of an input, and answers from their predictions.

Single labels add `predicted_label` and its probability `score`; several labels add `predicted_labels` and `scores` by
label; numbers add `predicted_value`. In tables, several labels are separated as in training, and their scores by
spaces.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.data.sources.formats import TEXTS
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, parse_labelled_text
from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE
from jaxft.tasks.base import Answers, Json
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.sequence_classification.label_types import make_label_type
from jaxft.tasks.sequence_classification.settings import Settings

# Kind of labels -> keys of an answer.
KEYS = {
    SINGLE: ("predicted_label", "score"),
    MULTI: ("predicted_labels", "scores"),
    NUMBER: ("predicted_value",),
}


class TextAnswers(Answers[LabelledText, np.ndarray]):
    """The examples and answers of a run that classifies texts. The prediction for a text is its scores, float64 [C]."""

    kind = TEXTS

    def __init__(self, run: RunFacts[Settings]):
        """Takes the keys of records from the run's settings."""
        data = run.config.data
        self._columns = TextColumns(data.text, data.text_pair, None)
        self._separator = data.label_separator
        self._label_type, self._tuned = make_label_type(run.labels, run.config), run.tuned
        self._keys = KEYS[run.config.model.problem_type]
        self.input_keys = [key for key in (data.text, data.text_pair) if key]
        self.text_key = data.text
        self.formats = ("jsonl", "json", "csv", "tsv", "parquet", *(() if data.text_pair else ("text",)))

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> LabelledText:
        """Returns the text of a record, without labels. Raises `UserError` if the record has none."""
        return parse_labelled_text(where, origin, record, self._columns)

    def keys(self, example: LabelledText | None) -> Sequence[str]:
        """Returns the keys of the answer to any text."""
        return self._keys

    def render(self, example: LabelledText, scores: np.ndarray) -> dict[str, Json]:
        """Returns the answer to a text."""
        [answer] = self._label_type.answer(scores[None], self._tuned)
        return answer

    def format_cell(self, value: Json) -> str:
        """Returns the text of a cell for a label or a number, for several labels, or for their scores."""
        if isinstance(value, list):
            return self._separator.join(value)
        return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
