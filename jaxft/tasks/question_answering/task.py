"""Extractive question answering: finds the span of a context that answers a question, or finds no answer."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, BatchSpec, segment_labels
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import split_dev_questions
from jaxft.data.sources.questions import Question
from jaxft.io.files import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.losses import cross_entropy
from jaxft.metrics.answers import TUNED, AnswerState
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import make_backbone
from jaxft.models.runtime import Runtime
from jaxft.tasks.base import Log, Split, cache_folder, group_by_words, has_head
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.question_answering import answer_search, report
from jaxft.tasks.question_answering.answer_search import RankedAnswers
from jaxft.tasks.question_answering.data import (
    check_questions,
    make_answer_keys,
    read_answered_questions,
)
from jaxft.tasks.report_files import print_report
from jaxft.tasks.settings import resolve_max_segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OUTPUTS = ["start", "end"]  # the head's outputs at every token
THRESHOLD = "null_threshold"  # key in `tuned`; the value None means that every question gets an answer


class QuestionAnswering:
    """Predicts spans as in transformers' `BertForQuestionAnswering`: logits of first and last token; CLS is no answer.

    A window has a question and a piece of its context. Several windows share a row, and each has a separate softmax.
    Predictions are `RankedAnswers` for each question. "No answer" is possible only if dev has questions without an
    answer.
    """

    model_types = ("bert",)
    reads_words = False
    example_input = '{"question": "Who moved?", "context": "Anna moved to Berlin."}'
    backbone_passes = 1
    predicts_tokens = False
    compares_with_train = False
    selection_metric = "f1"

    def __init__(self, labels: list[str], *, head_dropout: float = 0.0, config: Settings):
        self.labels = OUTPUTS
        self.tuned: dict[str, Any] = {}
        self.batch_spec = BatchSpec(segment_labels(np.int32, (2,)), resolve_max_segments(config.data))
        self.n_best = config.eval.n_best
        self.max_answer = config.eval.max_answer
        self.method = f"contexts whole, long ones in windows of {config.data.max_length} tokens"

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[Question]:
        """Returns the questions of `source`; see `read_answered_questions`."""
        return read_answered_questions(config.data, name, source, log)

    @staticmethod
    def split_dev(
        questions: Sequence[Question], fraction: float, seed: int
    ) -> tuple[list[Question], list[Question]]:
        """Splits questions into (train, dev). Questions about the same context stay together."""
        return split_dev_questions(questions, fraction, seed)

    @staticmethod
    def find_labels(questions: Sequence[Question]) -> list[str]:
        """Returns no labels, because the outputs do not depend on the data."""
        return []

    @staticmethod
    def make_labels(found_labels: Sequence[str]) -> list[str]:
        """Returns the head's outputs."""
        return OUTPUTS

    @staticmethod
    def iterate_texts(train: Sequence[Question]) -> Iterator[str]:
        """Yields each question, and each context once."""
        questions = (question.question for question in train)
        contexts = dict.fromkeys(question.context for question in train)
        return itertools.chain(questions, contexts)

    def check(self, split: Split, train: Sequence[Question], log: Log) -> None:
        """Logs answers that cannot be learned or found, and other doubtful examples; see `check_questions`."""
        check_questions(split, train, self.max_answer, log)

    def encode(
        self,
        questions: Sequence[Question],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of questions; see `encode_questions`."""
        return encode_questions(
            questions if only is None else questions[only.start : only.stop],
            tokenizer,
            max_length=config.data.max_length,
            stride=config.data.stride,
            cache_dir=cache_folder(config.data.cache_dir) if cached else None,
        )

    def output_counts(self, windows: Windows) -> None:
        """Returns None, because the loss reads all positions."""

    # ---------------------------------------------------------------- model

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `TokenClassifier` with two outputs. As in transformers, there is no dropout before the head."""
        return TokenClassifier(
            make_backbone(model_config, runtime, rngs=rngs),
            num_labels=len(OUTPUTS),
            dropout=0.0,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
        )

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Returns `cross_entropy.span_cross_entropy`, and the number of windows."""
        return _loss(_logits(model, batch, dropout), batch)

    def logits(self, model, batch) -> jax.Array:
        """Returns the logits of every token to be first and last, without dropout, float32 [R, L, 2]."""
        return _logits(model, batch, None)

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the outputs in the head of a checkpoint that answers questions: all have the same."""
        return list(range(len(OUTPUTS))) if has_head(hf_config, "ForQuestionAnswering") else None

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the parameters, with the head at the path in transformers' class."""
        return {
            f"qa_outputs/{name.removeprefix('head/')}" if name.startswith("head/") else name: value
            for name, value in parameters.items()
        }

    def predict(self, model, batch):
        """Returns {"logits": float32 [R, L, 2]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits}, *_loss(logits, batch)

    def encode_prompts(self, questions, tokenizer, config) -> list[list[int]]:
        """Returns no prompts, because the task generates no text."""
        return []

    # ---------------------------------------------------------------- evaluation

    def collect(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]
    ) -> list[RankedAnswers]:
        """Returns the best answers to each question from all its windows."""
        windows = split.windows
        char_start, char_end = windows.column("char_start"), windows.column("char_end")
        answers_of_windows: list[list[RankedAnswers]] = [[] for _ in split.examples]
        for batch, arrays in outputs:
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                window, begin = batch.windows[row, segment], batch.starts[row, segment]
                tokens = slice(*windows.offsets[window : window + 2])
                logits = arrays["logits"][row, begin : begin + windows.lengths[window]]
                answers = answer_search.best_in_window(
                    logits,
                    char_start[tokens],
                    char_end[tokens],
                    n_best=self.n_best,
                    max_answer=self.max_answer,
                )
                answers_of_windows[windows.sentence[window]].append(answers)
        if unread := sum(not answers for answers in answers_of_windows):
            raise AssertionError(f"{unread} questions of {split.name} were not answered")
        return [answer_search.best_in_question(answers, n_best=self.n_best) for answers in answers_of_windows]

    def predict_stream(
        self,
        questions: Iterable[Question],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[Question, dict[str, Any]]]]:
        """Answers questions while they arrive; yields chunks of (question, answer record) in order.

        Args:
          questions: the questions; None where the next one may take long to arrive.
          tokenizer: the tokenizer.
          config: the run's settings.
          outputs: returns the model's outputs for windows.
          max_words: the most words in a chunk, unless a single question has more. Only one chunk is in memory.
        """
        for chunk in group_by_words(questions, _count_words, max_words):
            windows = self.encode(chunk, tokenizer, config, cached=False)
            ranked = self.collect(Split("input", "input", chunk, windows), outputs(windows))
            records = answer_search.answer_records(chunk, ranked, self.tuned.get(THRESHOLD))
            yield list(zip(chunk, records, strict=True))

    def _make_state(self, split: Split, ranked: Sequence[RankedAnswers]) -> AnswerState:
        """Returns the metric state without the loss.

        Until a threshold is tuned, the state uses the best threshold for the split itself.
        """
        state = AnswerState(self.tuned.get(THRESHOLD, TUNED))
        gold = [[answer.text for answer in question.answers] for question in split.examples]
        best_texts = []
        for question, answers in zip(split.examples, ranked, strict=True):
            best = answers.candidates[0] if answers.candidates else None
            best_texts.append("" if best is None else question.context[best.start : best.end])
        state.update(gold, best_texts, [answers.null_odds for answers in ranked])
        return state

    def tune(self, split: Split, ranked: Sequence[RankedAnswers]) -> None:
        """Chooses the threshold with the best F1, or None if all questions have answers."""
        self.tuned = {}
        self.tuned = {THRESHOLD: self._make_state(split, ranked).choose_threshold()}

    def measure(
        self, split: Split, ranked: Sequence[RankedAnswers], loss_sum: float, weight_sum: float
    ) -> AnswerState:
        """Returns the metric state of a split, scored by the characters of its gold answers."""
        state = self._make_state(split, ranked)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        return list(self.measure(split, [RankedAnswers([], 0.0)] * len(split.examples), 0.0, 1.0).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """Returns exact match, F1 and loss as a line of the log."""
        scores = [f"exact match {100 * values['exact_match']:.2f}", f"F1 {100 * values['f1']:.2f}"]
        for prefix, text in (("has_answer_", "with an answer"), ("no_answer_", "without")):
            if f"{prefix}f1" in values:
                scores.append(f"{text} {100 * values[f'{prefix}f1']:.2f}")
        return f"{', '.join(scores)}, loss {values.get('loss', float('nan')):.4f}"

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: AnswerState,
        ranked: Sequence[RankedAnswers],
        *,
        seen: Sequence[Any],
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
            {"id": q.id, "question": q.question, "answers": [gold.text for gold in q.answers]} | answer
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


def _logits(model, batch, dropout) -> jax.Array:
    return model(Inputs.from_batch(batch), dropout=dropout)


def _loss(logits: jax.Array, batch) -> tuple[jax.Array, jax.Array]:
    spans = batch["starts"][..., None] + batch["labels"]
    return cross_entropy.span_cross_entropy(logits, batch["segment_ids"], spans, batch["weights"])


def _count_words(question: Question) -> int:
    return len(question.question.split()) + len(question.context.split())
