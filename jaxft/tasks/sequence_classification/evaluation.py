"""Evaluates texts: which text a window is of, and how long texts are read."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.tasks.labels.evaluation import LabelEvaluator
from jaxft.tasks.sequence_classification.settings import Settings


class TextEvaluator(LabelEvaluator[LabelledText, Windows]):
    """Evaluates labels or numbers of texts. The logits of a text in several windows are averaged."""

    noun = "text"

    def __init__(self, labels: Sequence[str], config: Settings):
        super().__init__(labels, config)
        self.method = _describe_method(config)

    def describe(self, example: LabelledText) -> dict[str, str]:
        """Returns the text, and its pair."""
        return {"text": example.text} | ({} if example.pair is None else {"text_pair": example.pair})

    def number_examples(self, encoding: Windows, windows: np.ndarray) -> np.ndarray:
        """Returns the number of the text of each window."""
        return encoding.sentence[windows]


def _describe_method(config: Settings) -> str:
    """Describes which part of texts longer than a window is read."""
    length = config.data.max_length
    if config.data.truncation == "windows":
        return f"texts whole, long ones by the mean of the logits of their windows of {length} tokens"
    kept = {"head": "beginning", "tail": "end", "head+tail": "beginning and end"}[config.data.truncation]
    return f"the {kept} of each text that is longer than {length} tokens"
