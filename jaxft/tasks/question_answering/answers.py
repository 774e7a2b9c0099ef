"""Reads questions about contexts, and renders them with their answers as JSON lines.

- JSON lines with `question` and `context` (or the keys of the training data). All keys stay, and these are added:
  `predicted_answer` ("" for none); `start` and `end`, its characters in the context (`end` exclusive; null for none);
  `score`, its probability among the best answers; `n_best`, a list of the best answers as `text`, `start`, `end` and
  `score`.
- SQuAD's JSON: one JSON object per line, with `id` and the same added keys.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources.formats import QUESTIONS
from jaxft.data.sources.questions import KEYS, Question, read_questions
from jaxft.tasks.lines import InputLines, extend_json_line, format_of_lines, make_json_line, resolve_input
from jaxft.tasks.run_facts import RunFacts

FORMATS = ("jsonl", "squad")


class QuestionAnsweringOutput:
    """The questions of an input, and the lines of that input with their answers."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input.

        Raises:
          UserError: the input cannot be read, or its format is not one of `FORMATS`.
        """
        self._columns = dict(run.config.data.columns)
        resolved = resolve_input(flags, QUESTIONS, FORMATS, keys=[*KEYS, *self._columns.values()])
        self._format = format_of_lines(resolved.format)
        self.lines = InputLines(resolved)

    def examples(self) -> Iterator[Question]:
        """Yields the questions. Answers in the input are not read."""
        try:
            yield from read_questions(self.lines, format=self._format, answered=False, columns=self._columns)
        finally:
            self.lines.close()

    def render(self, question: Question, answer: dict[str, Any]) -> list[bytes]:
        """Returns the lines of the input before a question, then the line of the question with its answer."""
        if self._format.name == "squad":  # the input is a single JSON document, which is not copied
            self.lines.take_rest()
            return [make_json_line({"id": question.id} | answer)]
        before = self.lines.take_until(question.origin)
        return [*before, extend_json_line(self.lines.take(1)[0], answer)]
