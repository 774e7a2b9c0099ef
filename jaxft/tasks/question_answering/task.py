"""Extractive question answering: the span of a context that answers a question, or that there is none."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Batch, segment_labels
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.questions import Question, find_question_overlap, read_questions, split_dev_questions
from jaxft.errors import UserError
from jaxft.io import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.losses import cross_entropy
from jaxft.metrics.answers import TUNED, AnswerState
from jaxft.models.registry import make_backbone
from jaxft.tasks.base import Log, Split, cache_folder, count_anywhere, group_by_words
from jaxft.tasks.lines import error_lines, prediction_lines
from jaxft.tasks.question_answering import answer_search, report
from jaxft.tasks.question_answering.answer_search import RankedAnswers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OUTPUTS = ["start", "end"]  # of the head, at every token
THRESHOLD = "null_threshold"  # in `tuned`; None: every question gets an answer


class QuestionAnswering:
    """Answers as in transformers' `BertForQuestionAnswering`: logits of being first and last, CLS being no answer.

    Several windows, each a question with a part of its context, are packed into a row; each has its own softmax.
    Predictions are a `Found` a question. Whether no answer may be given depends on dev's having such questions.
    """

    architectures = ("bert",)
    reads_words = False
    backbone_passes = 1
    predicts_tokens = False
    compares_with_train = False
    selection_metric = "f1"
    arrays = segment_labels(np.int32, (2,))

    def __init__(self, labels: list[str], *, head_dropout: float = 0.0, config: Settings):
        self.labels = OUTPUTS
        self.tuned: dict[str, Any] = {}
        self.max_segments = config.data.max_segments or max(1, config.data.max_length // 8)
        self.n_best = config.eval.n_best
        self.max_answer = config.eval.max_answer
        self.method = f"contexts whole, long ones in windows of {config.data.max_length} tokens"

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[Question]:
        """All questions of `source`; says how many there are, and how many have no answer."""
        data = config.data
        questions = list(read_questions(source, format=data.format, columns=dict(data.columns)))
        none = sum(not one.answers for one in questions)
        contexts = len({one.context for one in questions})
        log(
            f"{name}: {source}: {len(questions):,} questions about {contexts:,} contexts, "
            f"{none:,} of them without an answer"
        )
        whole = name == "train" and data.shards == 1  # of a part others may have answers
        if none == len(questions) and (whole or name == "dev"):
            raise UserError(
                f"{name}: {source}: none of {none:,} questions has an answer, so there is nothing to "
                f"{'learn' if name == 'train' else 'choose weights by'}; is it a test set whose answers were taken out?"
            )
        if repeated := sum(count - 1 for count in Counter(one.id for one in questions).values()):
            log(f"warning: {name}: {repeated:,} questions have another one's id")
        return questions

    @staticmethod
    def split_dev(
        questions: Sequence[Question], fraction: float, seed: int
    ) -> tuple[list[Question], list[Question]]:
        """(train, dev) of questions; those about one context stay together."""
        return split_dev_questions(questions, fraction, seed)

    @staticmethod
    def find_labels(questions: Sequence[Question]) -> list[str]:
        """Nothing."""
        return []

    @staticmethod
    def make_labels(found: Sequence[str]) -> list[str]:
        """The head's outputs, whatever the data."""
        return OUTPUTS

    @staticmethod
    def iterate_texts(train: Sequence[Question]) -> Iterator[str]:
        """Questions and contexts, each context once."""
        return itertools.chain((one.question for one in train), dict.fromkeys(one.context for one in train))

    def check(self, split: Split, train: Sequence[Question], log: Log) -> None:
        """Says what can't be learnt or found, what is shortened, and which contexts stand in `train` as well."""
        name, questions, windows = split.name, split.examples, split.windows
        if questions is not train and (shared := count_anywhere(find_question_overlap(train, questions))):
            log(f"warning: {shared:,} of {len(questions):,} questions of {name} are about contexts of train")
        if (extra := len(windows) - len(questions)) > 0:
            log(f"{name}: long contexts have {extra:,} more windows")
        owner, spans = windows.sentence, windows.column("labels")
        held = np.zeros(len(questions), bool)
        np.logical_or.at(held, owner, spans[:, 1] > 0)
        short = np.zeros(len(questions), bool)
        length = spans[:, 1] - spans[:, 0] + 1
        np.logical_or.at(short, owner, (spans[:, 1] > 0) & (length <= self.max_answer))
        answered = np.array([bool(one.answers) for one in questions])
        if count := np.count_nonzero(lost := answered & ~held):
            first = questions[int(np.flatnonzero(lost)[0])].origin
            use = "not trained on" if questions is train else "scored, but can hardly be right"
            log(
                f"warning: {name}: {count:,} of {len(questions):,} questions have answers that no window holds whole; "
                f"they are {use} (a larger config.data.stride or max_length helps); the first: {first}"
            )
        if count := np.count_nonzero(held & ~short):
            log(
                f"{name}: {count:,} of {len(questions):,} questions have answers of more than {self.max_answer} "
                "tokens, which are not predicted (config.eval.max_answer)"
            )
        if count := len(np.unique(owner[(cut := windows.column("lost")) > 0])):
            log(
                f"{name}: {count:,} of {len(questions):,} questions are shortened, by {cut.max():,} tokens at most, to "
                "half of config.data.max_length"
            )

    def encode(
        self,
        questions: Sequence[Question],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """`Windows` of questions (`only` some, if given) under the settings; see data/question_windows.py."""
        return encode_questions(
            questions if only is None else questions[only.start : only.stop],
            tokenizer,
            max_length=config.data.max_length,
            stride=config.data.stride,
            cache_dir=cache_folder(config.data.cache_dir) if cached else None,
        )

    def output_counts(self, windows: Windows) -> None:
        """All."""

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """`TokenClassifier` with two outputs over a BERT backbone of `sizes`; no dropout before the head, as in torch."""
        return TokenClassifier(
            make_backbone(sizes, rngs=rngs),
            num_labels=len(OUTPUTS),
            dropout=0.0,
            initializer_range=sizes["initializer_range"],
            rngs=rngs,
        )

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """See `losses.span_cross_entropy`; weight: how many windows there are."""
        return _loss(_logits(model, batch, dropout), batch)

    def logits(self, model, batch) -> jax.Array:
        """Logits of being first and last at every token, float32 [R, L, 2], without dropout."""
        return _logits(model, batch, None)

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Parameters with the head where transformers' class has it."""
        return {
            f"qa_outputs/{name.removeprefix('head/')}" if name.startswith("head/") else name: value
            for name, value in parameters.items()
        }

    def predict(self, model, batch):
        """{"logits": float32 [R, L, 2]}, and the loss."""
        logits = _logits(model, batch, None)
        return {"logits": logits}, *_loss(logits, batch)

    def encode_prompts(self, questions, tokenizer, config) -> list[list[int]]:
        """None: nothing is generated."""
        return []

    def collect(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]
    ) -> list[RankedAnswers]:
        """The best answers to each question, from all its windows."""
        windows = split.windows
        chars = windows.column("char_start"), windows.column("char_end")
        found: list[list[RankedAnswers]] = [[] for _ in split.examples]
        for batch, arrays in outputs:
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                window, begin = batch.windows[row, segment], batch.starts[row, segment]
                tokens = slice(*windows.offsets[window : window + 2])
                logits = arrays["logits"][row, begin : begin + windows.lengths[window]]
                best = answer_search.best_in_window(
                    logits, *(c[tokens] for c in chars), n_best=self.n_best, max_answer=self.max_answer
                )
                found[windows.sentence[window]].append(best)
        if unread := sum(not one for one in found):
            raise AssertionError(f"{unread} questions of {split.name} were not answered")
        return [answer_search.best_in_question(one, n_best=self.n_best) for one in found]

    def predict_stream(
        self,
        questions: Iterable[Question],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[Question, dict[str, Any]]]]:
        """Answers questions as they come: yields them with what is said of them, in order, a chunk at a time.

        outputs: the model's, of all windows. max_words: of a chunk (or one question): all that is held in memory.
        """
        for chunk in group_by_words(questions, _words, max_words):
            windows = self.encode(chunk, tokenizer, config, cached=False)
            found = self.collect(Split("input", "input", chunk, windows), outputs(windows))
            yield list(zip(chunk, self._answers(chunk, found, self.tuned.get(THRESHOLD)), strict=True))

    def _answers(
        self, questions, found: Sequence[RankedAnswers], threshold: float | None
    ) -> list[dict[str, Any]]:
        return [answer_search.answer_record(q, f, threshold) for q, f in zip(questions, found, strict=True)]

    def _state(self, split: Split, found: Sequence[RankedAnswers]) -> AnswerState:
        """Without the loss; until a threshold is tuned, at the one that is best for `split` itself."""
        state = AnswerState(self.tuned.get(THRESHOLD, TUNED))
        gold = [[answer.text for answer in one.answers] for one in split.examples]
        best = [
            q.context[f.candidates[0].start : f.candidates[0].end] if f.candidates else ""
            for q, f in zip(split.examples, found, strict=True)
        ]
        state.update(gold, best, [one.null_odds for one in found])
        return state

    def tune(self, split: Split, found: Sequence[RankedAnswers]) -> None:
        """The threshold with the best F1; none where all questions have answers."""
        self.tuned = {}
        self.tuned = {THRESHOLD: self._state(split, found).choose_threshold()}

    def measure(
        self, split: Split, found: Sequence[RankedAnswers], loss_sum: float, weight_sum: float
    ) -> AnswerState:
        """The metric state of a split, scored by the characters of its gold answers."""
        state = self._state(split, found)
        state.loss_sums.append(loss_sum)
        state.weight_sums.append(weight_sum)
        return state

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
        return list(self.measure(split, [RankedAnswers([], 0.0)] * len(split.examples), 0.0, 1.0).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""
        parts = [f"exact match {100 * values['exact_match']:.2f}", f"F1 {100 * values['f1']:.2f}"]
        for prefix, text in (("has_answer_", "with an answer"), ("no_answer_", "without")):
            if f"{prefix}f1" in values:
                parts.append(f"{text} {100 * values[f'{prefix}f1']:.2f}")
        return f"{', '.join(parts)}, loss {values.get('loss', float('nan')):.4f}"

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: AnswerState,
        found: Sequence[RankedAnswers],
        *,
        seen: Sequence[Any],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes what there is to read, prints the report, returns the metrics.

        eval/NAME.json; predictions/NAME.jsonl, with the n best of each question; predictions/NAME.json, text by id, as
        SQuAD's official script reads it; errors/NAME.tsv. samples: of the bootstrap.
        """
        questions = split.examples
        answers = self._answers(questions, found, state.choose_threshold())
        records = [
            {"id": q.id, "question": q.question, "answers": [a.text for a in q.answers]} | said
            for q, said in zip(questions, answers, strict=True)
        ]
        wrong = report.wrong_answers(records, state.final_scores())
        intervals = state.intervals(samples=samples, seed=seed) if samples else None
        result = report.evaluation_record(
            state, data=split.source, method=self.method, wrong=wrong, intervals=intervals
        )
        write_json(folder / "eval" / f"{split.name}.json", result)
        lines = prediction_lines(records)
        write_lines(folder / "predictions" / f"{split.name}.jsonl", lines)
        by_id = {record["id"]: record["predicted_answer"] for record in records}
        write_json(folder / "predictions" / f"{split.name}.json", by_id)
        errors = error_lines(wrong, report.COLUMNS)
        write_lines(folder / "errors" / f"{split.name}.tsv", errors)
        console.print(report.render_report(result))
        console.print(f"{split.name}: {len(records):,} questions scored, 0 unscored")
        return result["metrics"]


def _logits(model, batch, dropout) -> jax.Array:
    return model(Inputs.from_batch(batch), dropout=dropout)


def _loss(logits: jax.Array, batch) -> tuple[jax.Array, jax.Array]:
    spans = batch["starts"][..., None] + batch["labels"]
    return cross_entropy.span_cross_entropy(logits, batch["segment_ids"], spans, batch["weights"])


def _words(question: Question) -> int:
    return len(question.question.split()) + len(question.context.split())
