"""Splits a development set off training data, and finds examples that two data sets share."""

import math
import random
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from jaxft.data.sources.documents import Document
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.labels import Labelled
from jaxft.data.sources.questions import Question
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError

Example = TypeVar("Example")
LabelledExample = TypeVar("LabelledExample", bound=Labelled)


def split_dev_sentences(
    sentences: Sequence[Sentence], fraction: float, seed: int
) -> tuple[list[Sentence], list[Sentence]]:
    """Splits off about `fraction` of the sentences by `choose_dev_examples`; returns `(train, dev)`, both in order.

    If sentences are not grouped in documents, those with the same words stay in one set, unless all have the same.
    """
    documents = [sentence.document for sentence in sentences]
    if len(set(documents)) in (1, len(documents)):
        first_by_words: dict[tuple[str, ...], int] = {}
        groups = [
            first_by_words.setdefault(tuple(sentence.words), index)
            for index, sentence in enumerate(sentences)
        ]
        documents = groups if len(first_by_words) > 1 else documents
    return _partition(sentences, choose_dev_examples(documents, fraction, seed))


def choose_dev_examples(documents: Sequence[int] | np.ndarray, fraction: float, seed: int) -> list[bool]:
    """Chooses about `fraction` of the examples for a development set.

    If the examples come from several documents, each document stays in one set. The choice depends only on the
    arguments.

    Args:
      documents: the number of each example's document.
      fraction: the target share of examples, between 0 and 1.
      seed: the random seed.

    Returns:
      A bool for each example, True if it is in the development set.

    Raises:
      UserError: the fraction is not between 0 and 1, or there are fewer than two examples.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the dev fraction is {fraction}; expected a number between 0 and 1, such as 0.1")
    _require_two(len(documents), "sentence")
    groups: Iterable[int] = documents if len(set(documents)) > 1 else list(range(len(documents)))
    sizes = Counter(groups)
    order = sorted(sizes)
    random.Random(seed).shuffle(order)

    target, dev_size = fraction * len(documents), 0
    dev_groups: set[int] = set()
    for group in order:
        # A document is taken only if the size gets closer to the target, so a document that is too large is skipped.
        if len(dev_groups) < len(order) - 1 and abs(dev_size + sizes[group] - target) < target - dev_size:
            dev_groups.add(group)
            dev_size += sizes[group]
    if not dev_groups:
        dev_groups = {min(order, key=lambda group: sizes[group])}
    return [group in dev_groups for group in groups]


def split_dev_labelled(
    examples: Sequence[LabelledExample], contents: Iterable[Hashable], fraction: float, seed: int
) -> tuple[list[LabelledExample], list[LabelledExample]]:
    """Splits off a development set of about `fraction`; returns `(train, dev)`, both in order.

    Examples with the same contents, such as texts, stay in one set, unless all have the same. Single labels keep their
    shares, because contents are shuffled, grouped by label and taken at regular steps. A label with one content stays
    in `train`. Raises `UserError` for fewer than two examples.
    """
    _require_two(len(examples), "example")
    first_by_content: dict[Hashable, int] = {}
    first = [first_by_content.setdefault(content, index) for index, content in enumerate(contents)]
    if len(first_by_content) == 1:
        first = list(range(len(examples)))
    distinct = list(dict.fromkeys(first))
    rng = random.Random(seed)
    groups: dict[str, list[int]] = {}
    for index in rng.sample(distinct, len(distinct)):
        label = examples[index].label
        groups.setdefault(label if isinstance(label, str) else "", []).append(index)
    order = [index for name in sorted(groups) if len(groups[name]) > 1 for index in groups[name]]
    start = rng.random()  # so that the first examples of small groups are sometimes taken and sometimes not
    dev_indices = {
        index
        for place, index in enumerate(order)
        if math.floor((place + 1) * fraction + start) > math.floor(place * fraction + start)
    }
    dev_indices = dev_indices or set(order[:1]) or {0}
    return _partition(examples, [index in dev_indices for index in first])


def split_dev_questions(
    questions: Sequence[Question], fraction: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Splits off a development set of about `fraction`; returns `(train, dev)`, both in order.

    All questions about a context stay in one set, unless there is only one context. Raises `UserError` for fewer
    than two questions.
    """
    _require_two(len(questions), "question")
    groups: list[Hashable] = [question.context for question in questions]
    if len(set(groups)) == 1:
        groups = list(range(len(questions)))
    order = list(dict.fromkeys(groups))
    random.Random(seed).shuffle(order)
    sizes = dict.fromkeys(order, 0)
    for group in groups:
        sizes[group] += 1
    dev_groups, dev_size = set(), 0
    for group in order[:-1]:  # the last group stays in train
        if dev_size >= math.ceil(fraction * len(questions)):
            break
        dev_groups.add(group)
        dev_size += sizes[group]
    return _partition(questions, [group in dev_groups for group in groups])


def cut_document(document: Document, fraction: float) -> tuple[Document, Document]:
    """Cuts a document into `(train, dev)`; dev has about the last `fraction` of its characters.

    The cut is at the end of a line if possible, else at the end of a word, else anywhere. Raises `UserError` if the
    text is too short.
    """
    text, target = document.text, round(len(document.text) * (1 - fraction))
    for border in ("\n", " ", ""):
        cut = text.rfind(border, 0, target) + len(border)
        if 0 < cut < len(text) and text[:cut].strip() and text[cut:].strip():
            break
    else:
        raise UserError("the training data is a single short text: no dev set can be split off; name one")
    return Document(text[:cut], 0, document.origin), Document(text[cut:], 0, document.origin)


def find_sentence_overlap(train: Iterable[Sentence], other: Iterable[Sentence]) -> np.ndarray:
    """Marks the sentences of `other` that have words and whose words equal a sentence in `train`: bool `[N]`."""
    seen = {tuple(sentence.words) for sentence in train if sentence.words}
    return _find_seen(seen, (tuple(sentence.words) for sentence in other))


def find_text_overlap(train: Iterable[LabelledText], other: Iterable[LabelledText]) -> np.ndarray:
    """Marks the examples of `other` whose texts occur in `train` with any labels: bool `[N]`."""
    seen = {(example.text, example.pair) for example in train}
    return _find_seen(seen, ((example.text, example.pair) for example in other))


def find_question_overlap(train: Iterable[Question], other: Iterable[Question]) -> np.ndarray:
    """Marks the questions of `other` whose contexts occur in `train`: bool `[N]`."""
    return _find_seen({question.context for question in train}, (question.context for question in other))


def _find_seen(seen: Collection[Hashable], keys: Iterable[Hashable]) -> np.ndarray:
    return np.fromiter((key in seen for key in keys), bool)


def _partition(examples: Sequence[Example], is_dev: Sequence[bool]) -> tuple[list[Example], list[Example]]:
    train = [example for example, chosen in zip(examples, is_dev, strict=True) if not chosen]
    dev = [example for example, chosen in zip(examples, is_dev, strict=True) if chosen]
    return train, dev


def _require_two(count: int, noun: str) -> None:
    if count < 2:
        raise UserError(
            f"{count} {noun} in the training data: none can be split off for evaluation; add data, or name a dev set"
        )
