"""Makes texts for several tasks from the records of an input, and answers with each task's answer under its name.

The answer of a task that labels texts is that of `sequence_classification`, such as `{"predicted_labels", "scores"}`.
The answer of a task that labels words is `{"entities": [...]}` (or `words`) for a text, and
`{"predicted_tags", "scores"}` for tokens.
"""

from collections.abc import Sequence
from typing import Any

from jaxft.data.encoding.multi_task import MultiText, join_examples
from jaxft.data.sources.formats import TEXTS
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, parse_labelled_text
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.spans import parse_sentences
from jaxft.tasks.multi_task.data import CLASSES
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.answers import list_labelled_spans


class MultiTaskAnswers:
    """The examples and answers of a run of several tasks; implements `Answers` of inference/predict.py."""

    kind = TEXTS
    formats = ("jsonl", "json", "parquet", "text")
    text_key = "text"

    def __init__(self, run: RunFacts):
        """Takes the keys of records from the run's settings."""
        self._task_configs = make_task_configs(run.config)
        self._task_classes = {name: CLASSES[config.task] for name, config in self._task_configs.items()}
        self.input_keys = ["text", "tokens"]

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> MultiText:
        """Returns the text of a record for each task. Raises `UserError` if the record lacks the text of a task."""
        examples = {name: self._parse_example(name, where, origin, record) for name in self._task_configs}
        join_examples({name: [example] for name, example in examples.items()}, 0, self._task_classes)
        return MultiText(origin, 0, examples, self._task_classes)

    def _parse_example(self, name: str, where: str, origin: str, record: dict) -> Sentence | LabelledText:
        """Returns the example that a task reads from a record."""
        data = self._task_configs[name].data
        if self._task_configs[name].task == "sequence_classification":
            key = data.text
            if key not in record and record.keys() == {self.text_key}:  # a line of plain text
                key = self.text_key
            return parse_labelled_text(where, origin, record, TextColumns(key, data.text_pair, None))
        columns = {role: key for role, key in data.columns if key in record}
        [sentence] = parse_sentences(iter([(where, origin, record)]), tagged=False, columns=columns)
        return sentence

    def keys(self, text: MultiText | None) -> Sequence[str]:
        """Returns the keys of the answer to any text, which are the names of tasks."""
        return tuple(self._task_configs)

    def answer(self, text: MultiText, predictions: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to a text."""
        return {name: _make_record(text.examples[name], value) for name, value in predictions.items()}


def _make_record(example: Sentence | LabelledText, answer: Any) -> dict[str, Any]:
    """Returns the answer of one task as JSON values."""
    if not isinstance(example, Sentence):
        return answer
    if example.text is not None:
        return list_labelled_spans(example, answer)
    return {"predicted_tags": answer.tags, "scores": [round(float(score), 6) for score in answer.scores]}
