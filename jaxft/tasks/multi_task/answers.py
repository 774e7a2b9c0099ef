"""Makes texts for several tasks from the records of an input, and answers with each task's answer under its name."""

from collections.abc import Sequence
from typing import Any

from jaxft.data.encoding.shared_texts import MultiText, join_examples
from jaxft.data.sources.formats import TEXTS
from jaxft.tasks.base import Answer, Answers, AnyAnswers
from jaxft.tasks.multi_task.names import select_runs
from jaxft.tasks.multi_task.settings import Settings
from jaxft.tasks.registry import make_answers
from jaxft.tasks.run_facts import RunFacts


class MultiTaskAnswers(Answers[MultiText, dict[str, Any]]):
    """The examples and answers of a run of several tasks."""

    kind = TEXTS
    formats = ("jsonl", "json", "parquet", "text")
    text_key = "text"
    input_keys = ("text", "tokens")

    def __init__(self, run: RunFacts[Settings]):
        """Makes the answers of each task."""
        self._tasks: dict[str, AnyAnswers] = {}
        for name, task_run in select_runs(run).items():
            answers = make_answers(task_run)
            assert answers is not None, f"{task_run.config.task} answers no records"
            self._tasks[name] = answers

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> MultiText:
        """Returns the text of a record for each task. Raises `UserError` if the record lacks the text of a task."""
        examples = {}
        for name, answers in self._tasks.items():
            if record.keys() == {self.text_key} and answers.text_key not in record:  # a line of plain text
                examples[name] = answers.parse(where, origin, {answers.text_key: record[self.text_key]})
            else:
                examples[name] = answers.parse(where, origin, record)
        pieces = join_examples({name: [example] for name, example in examples.items()}, 0)
        return MultiText(origin, 0, examples, tuple(pieces) if len(pieces) > 1 else ())

    def keys(self, text: MultiText | None) -> Sequence[str]:
        """Returns the keys of the answer to any text, which are the names of tasks."""
        return tuple(self._tasks)

    def render(self, text: MultiText, predictions: dict[str, Any]) -> dict[str, Answer]:
        """Returns the answer to a text: the answer of each task."""
        return {
            name: self._tasks[name].render(text.examples[name], prediction)
            for name, prediction in predictions.items()
        }
