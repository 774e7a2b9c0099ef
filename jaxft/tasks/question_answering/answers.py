"""Makes questions about contexts from the records of an input, and answers from their predictions.

An answer adds `predicted_answer` ("" for none); `start` and `end`, its characters in the context (`end` exclusive; null
for none); `score`, its probability among the best answers; `n_best`, a list of the best answers as `text`, `start`,
`end` and `score`. For SQuAD's JSON, the output has only `id` and these keys.
"""

from collections.abc import Sequence
from typing import Any, cast

from jaxft.data.sources.formats import QUESTIONS
from jaxft.data.sources.questions import KEYS, Question, parse_question
from jaxft.tasks.base import Answers, Json
from jaxft.tasks.question_answering.answer_search import RankedAnswers, answer_record
from jaxft.tasks.question_answering.evaluation import THRESHOLD
from jaxft.tasks.question_answering.settings import Settings
from jaxft.tasks.run_facts import RunFacts


class QuestionAnswers(Answers[Question, RankedAnswers]):
    """The examples and answers of a run that answers questions."""

    kind = QUESTIONS
    formats = ("jsonl", "json", "parquet", "squad")
    text_key = "question"

    def __init__(self, run: RunFacts[Settings]):
        """Takes the keys of records from the run's settings."""
        self._columns = dict(run.config.data.columns)
        self._threshold = cast(float | None, run.tuned.get(THRESHOLD))
        self.input_keys = [*KEYS, *self._columns.values()]

    def parse(self, where: str, origin: str, record: dict[str, Any]) -> Question:
        """Returns the question of a record, without answers. Raises `UserError` if the record has none."""
        columns = {role: key for role, key in self._columns.items() if key in record}
        return parse_question(where, origin, record, {key: key for key in KEYS} | columns, answered=False)

    def keys(self, question: Question | None) -> Sequence[str]:
        """Returns the keys of the answer to any question."""
        return ("predicted_answer", "start", "end", "score", "n_best")

    def render(self, question: Question, ranked: RankedAnswers) -> dict[str, Json]:
        """Returns the answer to a question; see `answer_record`."""
        return answer_record(question, ranked, self._threshold)
