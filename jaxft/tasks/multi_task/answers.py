"""Reads texts for several tasks, and renders them with each task's answer under the task's name.

- JSON lines: all keys stay. For each task a key NAME is added, or `predicted_NAME` if the record already has NAME.
- Plain text: `{"text", NAME, ...}`, one JSON object per line.

The answer of a task that labels texts is that of `sequence_classification`, such as `{"predicted_labels", "scores"}`.
The answer of a task that labels words is `{"entities": [...]}` (or `words`) for a text, and
`{"predicted_tags", "scores"}` for tokens.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from jaxft.data.encoding.multi_task import MultiText, get_text_and_pair
from jaxft.data.sources import files
from jaxft.data.sources.formats import TEXTS, ResolvedSource
from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    parse_labelled_text,
    read_labelled_texts,
)
from jaxft.data.sources.records import record_values
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.spans import parse_sentences
from jaxft.tasks.lines import InputLines, extend_json_line, format_of_lines, make_json_line, resolve_input
from jaxft.tasks.multi_task.data import CLASSES
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.answers import list_labelled_spans

FORMATS = ("jsonl", "text")


class MultiTaskOutput:
    """The texts of an input, and the lines of that input with predictions."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input.

        Raises:
          UserError: the input cannot be read, or its format is not one of `FORMATS`.
        """
        resolved = resolve_input(flags, TEXTS, FORMATS, keys=["text"])
        self._format = format_of_lines(resolved.format)
        self._task_configs = make_task_configs(run.config)
        self._task_classes = {name: CLASSES[config.task] for name, config in self._task_configs.items()}
        self.lines = InputLines(resolved)

    def examples(self) -> Iterator[MultiText]:
        """Yields the texts without labels, including empty texts.

        Raises:
          UserError: a record lacks the text of a task.
        """
        try:
            for where, origin, record in self._read_records():
                examples = {
                    name: self._parse_example(name, where, origin, record) for name in self._task_configs
                }
                yield MultiText(origin, 0, examples, self._task_classes)
        finally:
            self.lines.close()

    def _read_records(self) -> Iterator[record_values.Record]:
        if self._format.name == "jsonl":
            return read_records(ResolvedSource(self.lines, self._format), TEXTS, files.log_nothing)[0]
        keys = {"text"}
        for config in self._task_configs.values():
            if config.task == "sequence_classification":
                keys.add(config.data.text)
        return (
            (text.origin, text.origin, dict.fromkeys(keys, text.text))
            for text in read_labelled_texts(
                self.lines, columns=TextColumns("text", None, None), format=self._format
            )
        )

    def _parse_example(self, name: str, where: str, origin: str, record: dict) -> Sentence | LabelledText:
        """Returns the example that a task reads from a record."""
        data = self._task_configs[name].data
        if self._task_configs[name].task == "sequence_classification":
            return parse_labelled_text(where, origin, record, TextColumns(data.text, data.text_pair, None))
        columns = {} if self._format.name == "text" else dict(data.columns)
        [sentence] = parse_sentences(iter([(where, origin, record)]), tagged=False, columns=columns)
        return sentence

    def render(self, text: MultiText, answers: dict[str, Any]) -> list[bytes]:
        """Returns the lines of the input before a text, then the lines of the text with each task's answer."""
        before = self.lines.take_until(text.origin)
        [line] = self.lines.take(1)
        additions = {name: _make_record(text.examples[name], answer) for name, answer in answers.items()}
        if self._format.name == "jsonl":
            return [*before, extend_json_line(line, additions)]
        first_string, _ = get_text_and_pair(next(iter(text.examples.values())))
        return [*before, make_json_line({"text": first_string} | additions)]


def _make_record(example: Sentence | LabelledText, answer: Any) -> dict[str, Any]:
    """Returns the answer of one task as JSON values."""
    if not isinstance(example, Sentence):
        return answer
    if example.text is not None:
        return list_labelled_spans(example, answer)
    return {"predicted_tags": answer.tags, "scores": [round(float(score), 6) for score in answer.scores]}
