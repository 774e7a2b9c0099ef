"""Collects the answers to questions, measures them, and writes the files of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.questions import Question
from jaxft.io.files import write_json, write_lines
from jaxft.metrics.answers import TUNED, AnswerState
from jaxft.tasks.base import Evaluator, Json, Outputs, Split
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.question_answering import answer_search, report
from jaxft.tasks.question_answering.answer_search import RankedAnswers
from jaxft.tasks.question_answering.data import make_answer_keys
from jaxft.tasks.question_answering.settings import Settings
from jaxft.tasks.report_files import print_report

MERGED_WINDOWS = 64  # of one question, whose answers become one list of the best
THRESHOLD = "null_threshold"  # key in `tuned`; the value None means that every question gets an answer


class AnswerEvaluator(Evaluator[Question, Windows, list[RankedAnswers], AnswerState]):
    """Evaluates answers to questions. Predictions are `RankedAnswers` for each question.

    "No answer" is possible only if dev has questions without an answer.
    """

    selection_metric = "f1"

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}
        self._n_best = config.eval.n_best
        self._max_answer = config.eval.max_answer
        self.method = f"contexts whole, long ones in windows of {config.data.max_length} tokens"

    def collect(self, split: Split[Question, Windows], outputs: Outputs) -> list[RankedAnswers]:
        """Returns the best answers to each question from all its windows."""
        windows = split.windows
        char_start, char_end = windows.column("char_start"), windows.column("char_end")
        answers_of_windows: list[list[RankedAnswers]] = [[] for _ in split.examples]
        for batch, arrays in outputs:
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                window, begin = batch.windows[row, segment], batch.starts[row, segment]
                tokens = slice(windows.offsets[window], windows.offsets[window + 1])
                logits = arrays["logits"][row, begin : begin + windows.lengths[window]]
                answers = answer_search.best_in_window(
                    logits,
                    char_start[tokens],
                    char_end[tokens],
                    n_best=self._n_best,
                    max_answer=self._max_answer,
                )
                answers_of_question = answers_of_windows[windows.sentence[window]]
                answers_of_question.append(answers)
                if len(answers_of_question) == MERGED_WINDOWS:
                    best = answer_search.best_in_question(answers_of_question, n_best=self._n_best)
                    answers_of_question[:] = [best]
        if unread := sum(not answers for answers in answers_of_windows):
            raise AssertionError(f"{unread} questions of {split.name} were not answered")
        return [
            answer_search.best_in_question(answers, n_best=self._n_best) for answers in answers_of_windows
        ]

    def _make_state(self, split: Split[Question, Windows], ranked: Sequence[RankedAnswers]) -> AnswerState:
        """Returns the metric state without the loss.

        Until a threshold is tuned, the state uses the best threshold for the split itself.
        """
        state = AnswerState(cast(float | str | None, self.tuned.get(THRESHOLD, TUNED)))
        gold = [[answer.text for answer in question.gold_answers] for question in split.examples]
        best_texts = []
        for question, answers in zip(split.examples, ranked, strict=True):
            best = answers.candidates[0] if answers.candidates else None
            best_texts.append("" if best is None else question.context[best.start : best.end])
        state.update(gold, best_texts, [answers.null_odds for answers in ranked])
        return state

    def tune(self, split: Split[Question, Windows], ranked: Sequence[RankedAnswers]) -> None:
        """Chooses the threshold with the best F1, or None if all questions have answers."""
        self.tuned = {}
        self.tuned = {THRESHOLD: self._make_state(split, ranked).choose_threshold()}

    def measure(
        self,
        split: Split[Question, Windows],
        ranked: Sequence[RankedAnswers],
        loss_sum: float,
        weight_sum: float,
    ) -> AnswerState:
        """Returns the metric state of a split, scored by the characters of its gold answers."""
        state = self._make_state(split, ranked)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split[Question, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        return list(self.measure(split, [RankedAnswers([], 0.0)] * len(split.examples), 0.0, 1.0).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns exact match, F1 and loss as a line of the log."""
        scores = [f"exact match {100 * values['exact_match']:.2f}", f"F1 {100 * values['f1']:.2f}"]
        for prefix, text in (("has_answer_", "with an answer"), ("no_answer_", "without")):
            if f"{prefix}f1" in values:
                scores.append(f"{text} {100 * values[f'{prefix}f1']:.2f}")
        return f"{', '.join(scores)}, loss {values.get('loss', float('nan')):.4f}"

    def write_evaluation(
        self,
        folder: Path,
        split: Split[Question, Windows],
        state: AnswerState,
        ranked: Sequence[RankedAnswers],
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes the files of an evaluation, prints its report and returns the metrics.

        The files are eval/NAME.json; predictions/NAME.jsonl, with the n best answers to each question;
        predictions/NAME.json, with the answer's text by id (see `make_answer_keys`), for SQuAD's official script; and
        errors/NAME.tsv.
        """
        questions = split.examples
        answers = answer_search.answer_records(questions, ranked, state.choose_threshold())
        records = [
            {"id": q.id, "question": q.question, "answers": [gold.text for gold in q.gold_answers]} | answer
            for q, answer in zip(questions, answers, strict=True)
        ]
        wrong = report.list_wrong_answers(records, state.final_scores())
        intervals = state.intervals(samples=samples, seed=seed) if samples else None
        record = report.evaluation_record(
            state, data=split.source, method=self.method, wrong=wrong, intervals=intervals
        )
        write_json(folder / "eval" / f"{split.name}.json", record)
        lines = prediction_lines(records)
        write_lines(folder / "predictions" / f"{split.name}.jsonl", lines)
        texts = (answered["predicted_answer"] for answered in records)
        text_by_key = dict(zip(make_answer_keys(questions), texts, strict=True))
        write_json(folder / "predictions" / f"{split.name}.json", text_by_key)
        errors = error_lines(wrong, report.COLUMNS)
        write_lines(folder / "errors" / f"{split.name}.tsv", errors)
        full = report.render_report(record)
        print_report(console, folder, split.name, full, full)
        console.print(f"{split.name}: {len(records):,} questions scored, 0 unscored")
        return record["metrics"]
