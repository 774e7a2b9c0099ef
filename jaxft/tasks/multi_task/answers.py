"""Reads texts for several tasks and writes them with each task's answer, under the task's name.

- JSON lines: all keys stay; for each task NAME, or `predicted_NAME` where the record has that key, is added.
- Plain text: `{"text", NAME, ...}`, one JSON object a line.

A task that labels texts answers `{"predicted_labels", "scores"}` or what else `sequence_classification` writes; one
that labels words `{"entities": [...]}` (or `words`) of a text, `{"predicted_tags", "scores"}` of tokens.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from jaxft.data.encoding.multi_task import MultiText, get_text_and_pair
from jaxft.data.sources import records
from jaxft.data.sources.files import check_readable
from jaxft.data.sources.labelled_texts import (
    TextColumns,
    guess_text_format,
    parse_labelled_text,
    read_labelled_texts,
)
from jaxft.data.sources.sentence import Sentence
from jaxft.data.sources.spans import parse_sentences
from jaxft.tasks.lines import InputLines, choose_format, extend_json_line, make_json_line
from jaxft.tasks.multi_task.task import CLASSES
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.answers import list_labelled_spans

FORMATS = ("jsonl", "text")


class MultiTaskOutput:
    """Texts of an input, and the input with what was predicted."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input. Raises `UserError` for one that cannot be read or is in no format that fits."""
        source, guessed = flags.input, flags.format
        if not source.startswith(("demo:", "hub:")):
            check_readable(source, "- for stdin")
            guessed = guess_text_format(source) if flags.format == "auto" else flags.format
        self._format = choose_format(source, flags.format, guessed, FORMATS)
        self._own = make_task_configs(run.config)
        self._kinds = {name: CLASSES[own.task] for name, own in self._own.items()}
        self.lines = InputLines(source)

    def examples(self) -> Iterator[MultiText]:
        """The texts, without labels; empty ones too. Raises `UserError` for a record without a task's text."""
        try:
            for where, origin, record in self._records():
                parts = {name: self._part(name, where, origin, record) for name in self._own}
                yield MultiText(origin, 0, parts, self._kinds)
        finally:
            self.lines.close()

    def _records(self) -> Iterator[records.Record]:
        if self._format == "jsonl":
            return records.read_jsonl(self.lines)
        keys = {own.data.text for own in self._own.values() if own.task == "sequence_classification"} | {
            "text"
        }
        return (
            (text.origin, text.origin, dict.fromkeys(keys, text.text))
            for text in read_labelled_texts(
                self.lines, columns=TextColumns("text", None, None), format="text"
            )
        )

    def _part(self, name: str, where: str, origin: str, record: dict) -> Any:
        data = self._own[name].data
        if self._own[name].task == "sequence_classification":
            return parse_labelled_text(where, origin, record, TextColumns(data.text, data.text_pair, None))
        columns = {} if self._format == "text" else dict(data.columns)
        [sentence] = parse_sentences(iter([(where, origin, record)]), tagged=False, columns=columns)
        return sentence

    def render(self, example: MultiText, answers: dict[str, Any]) -> list[bytes]:
        """What is written for a text, with the lines before it."""
        before = self.lines.take_until(example.origin)
        [line] = self.lines.take(1)
        said = {name: _said(example.examples[name], answer) for name, answer in answers.items()}
        if self._format == "jsonl":
            return [*before, extend_json_line(line, said)]
        text, _ = get_text_and_pair(next(iter(example.examples.values())))
        return [*before, make_json_line({"text": text} | said)]


def _said(part: Any, answer: Any) -> dict[str, Any]:
    if not isinstance(part, Sentence):
        return answer
    if part.text is not None:
        return list_labelled_spans(part, answer)
    return {"predicted_tags": answer.tags, "scores": [round(float(score), 6) for score in answer.scores]}
