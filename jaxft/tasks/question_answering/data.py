"""Reads and encodes questions about contexts, and checks data sets for answers that cannot be learned or found."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import find_question_overlap, split_dev_questions
from jaxft.data.sources.questions import Question, read_questions
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log, Split
from jaxft.tasks.question_answering.settings import Data, Settings
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words, count_set_in_any_process, count_words
from jaxft.tasks.settings import make_file_format

SHOWN = 5  # the most ids in a line of the log
OUTPUTS = ["start", "end"]  # the head's outputs at every token


class Questions(TextData[Question]):
    """The questions of a run, about contexts."""

    _config: Settings
    example_input = '{"question": "Who moved?", "context": "Anna moved to Berlin."}'

    def read(self, name: str, source: str, log: Log) -> list[Question]:
        """Returns the questions of `source`; see `read_answered_questions`."""
        return read_answered_questions(self._config.data, name, source, log)

    def split_dev(
        self, questions: Sequence[Question], fraction: float, seed: int
    ) -> tuple[list[Question], list[Question]]:
        """Splits questions into (train, dev). Questions about the same context stay together."""
        return split_dev_questions(questions, fraction, seed)

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the head's outputs, which do not depend on the data."""
        return OUTPUTS

    def iterate_texts(self, train: Sequence[Question]) -> Iterator[str]:
        """Yields each question, and each context once."""
        questions = (question.question for question in train)
        contexts = dict.fromkeys(question.context for question in train)
        return itertools.chain(questions, contexts)

    def encode(
        self,
        questions: Sequence[Question],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of questions; see `encode_questions`."""
        data = self._config.data
        return encode_questions(
            questions if only is None else questions[only.start : only.stop],
            processor.tokenizer,
            max_length=self._config.text_length,
            prompt_length=self._config.adapter.prompt_length,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def check(
        self, split: Split[Question, Windows], labels: Sequence[str], train: Sequence[Question], log: Log
    ) -> None:
        """Logs answers that cannot be learned or found, and other doubtful examples; see `check_questions`."""
        check_questions(split, train, self._config.eval.max_answer, log)

    def chunk(self, questions: Iterable[Question | None], max_words: int) -> Iterator[Chunk[Question]]:
        """Yields chunks of questions."""
        return chunk_by_words(questions, _count_words, max_words)


def _count_words(question: Question) -> int:
    return count_words(question.question) + count_words(question.context)


def read_answered_questions(data: Data, name: str, source: str, log: Log) -> list[Question]:
    """Returns the questions of `source`, and logs the number of questions and of questions without an answer.

    Args:
      data: the settings of the data.
      name: the name of the data set, "train", "dev" or "test".
      source: the path or address of its files.
      log: prints a line of the log.

    Raises:
      UserError: a data set that needs answers has none.
    """
    questions = list(
        read_questions(source, format=make_file_format(data), columns=dict(data.columns), log=log)
    )
    unanswered = sum(not question.answers for question in questions)
    contexts = len({question.context for question in questions})
    log(
        f"{name}: {source}: {len(questions):,} questions about {contexts:,} contexts, "
        f"{unanswered:,} of them without an answer"
    )
    # A shard of the training data may have no answers although other shards have some.
    needs_answers = name == "dev" or (name == "train" and data.shards == 1)
    if unanswered == len(questions) and needs_answers:
        raise UserError(
            f"{name}: {source}: none of {unanswered:,} questions has an answer, so there is nothing to "
            f"{'learn' if name == 'train' else 'choose weights by'}; is it a test set whose answers were taken out?"
        )
    counts_by_id = Counter(question.id for question in questions)
    if repeated := [identifier for identifier, count in counts_by_id.items() if count > 1]:
        count = sum(counts_by_id[identifier] - 1 for identifier in repeated)
        places = [question.origin for question in questions if question.id == repeated[0]]
        shown = ", ".join(map(repr, repeated[:SHOWN])) + (", ..." if len(repeated) > SHOWN else "")
        keys = "" if name == "train" else f"; predictions/{name}.json has their answers under ID#2 and so on"
        log(
            f"warning: {name}: {count:,} of {len(questions):,} questions have the id of an earlier one: {shown} "
            f"(the first: {places[0]} and {places[1]}){keys}"
        )
    return questions


def make_answer_keys(questions: Sequence[Question]) -> list[str]:
    """Returns a different key for each question: its id, and ID#2, ID#3 and so on for further questions with an id."""
    taken = {question.id for question in questions}
    counts: Counter[str] = Counter()
    keys = []
    for question in questions:
        key = question.id
        if counts[key]:
            candidates = (f"{question.id}#{number}" for number in itertools.count(counts[key] + 1))
            key = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(key)
        counts[question.id] += 1
        keys.append(key)
    return keys


def check_questions(
    split: Split[Question, Windows], train: Sequence[Question], max_answer: int, log: Log
) -> None:
    """Logs the answers that cannot be learned or found, shortened questions, and contexts that are also in `train`.

    Args:
      split: the data set.
      train: the training questions.
      max_answer: the most tokens in a predicted answer.
      log: prints a line of the log.
    """
    name, questions, windows = split.name, split.examples, split.windows
    is_train = questions is train
    if not is_train and (shared := count_set_in_any_process(find_question_overlap(train, questions))):
        log(f"warning: {shared:,} of {len(questions):,} questions of {name} are about contexts of train")
    if (extra := len(windows) - len(questions)) > 0:
        log(f"{name}: long contexts have {extra:,} more windows")
    question_of_window, spans = windows.sentence, windows.column("labels")
    has_span = spans[:, 1] > 0
    length = spans[:, 1] - spans[:, 0] + 1
    is_in_window = np.zeros(len(questions), bool)  # True if a window has the answer
    np.logical_or.at(is_in_window, question_of_window, has_span)
    is_short = np.zeros(len(questions), bool)  # True if a window has an answer of at most `max_answer` tokens
    np.logical_or.at(is_short, question_of_window, has_span & (length <= max_answer))
    is_lost = np.array([bool(question.answers) for question in questions]) & ~is_in_window
    if count := np.count_nonzero(is_lost):
        first = questions[int(np.flatnonzero(is_lost)[0])].origin
        use = "not trained on" if is_train else "scored, but can hardly be right"
        log(
            f"warning: {name}: {count:,} of {len(questions):,} questions have answers that no window holds whole; "
            f"they are {use} (a larger config.data.stride or max_length helps); the first: {first}"
        )
    if count := np.count_nonzero(is_in_window & ~is_short):
        log(
            f"{name}: {count:,} of {len(questions):,} questions have answers of more than {max_answer} "
            "tokens, which are not predicted (config.eval.max_answer)"
        )
    lost_tokens = windows.column("lost")
    if shortened := len(np.unique(question_of_window[lost_tokens > 0])):
        log(
            f"{name}: {shortened:,} of {len(questions):,} questions are shortened, by {lost_tokens.max():,} tokens at "
            "most, to half of config.data.max_length"
        )
