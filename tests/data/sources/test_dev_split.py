"""Development sets have the size asked for, depend on the seed, and share no document or context with train."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.dev_split import (
    cut_document,
    find_question_overlap,
    find_sentence_overlap,
    find_text_overlap,
    split_dev_labelled,
    split_dev_questions,
    split_dev_sentences,
)
from jaxft.data.sources.documents import Document
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Question
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError


def sentences_of(documents):
    return [Sentence([f"w{i}"], ["O"], document, f"f:{i}") for i, document in enumerate(documents)]


def test_sentences_are_split_by_seed_and_documents_stay_in_one_set():
    corpus = sentences_of([i // 5 for i in range(100)])
    train, dev = split_dev_sentences(corpus, 0.1, 0)
    assert len(dev) == 10 and len(train) == 90
    assert {s.document for s in train}.isdisjoint(s.document for s in dev)
    assert sorted(s.origin for s in train + dev) == sorted(s.origin for s in corpus)
    assert split_dev_sentences(corpus, 0.1, 0) == (train, dev)
    assert split_dev_sentences(corpus, 0.1, 1) != (train, dev)
    # One document is split by sentences; a document far over the fraction is passed over.
    assert len(split_dev_sentences(sentences_of([0] * 50), 0.2, 3)[1]) == 10
    assert all(
        len(split_dev_sentences(sentences_of([0] * 90 + [1] * 10), 0.1, seed)[1]) == 10 for seed in range(9)
    )
    # Neither side is ever empty.
    for count, fraction in itertools.product((2, 3), (0.001, 0.999)):
        assert all(split_dev_sentences(sentences_of([0] * count), fraction, 0))
        assert all(split_dev_sentences(sentences_of(range(count)), fraction, 0))
    with pytest.raises(UserError, match="1 sentence in the training data"):
        split_dev_sentences(sentences_of([0]), 0.1, 0)
    with pytest.raises(UserError, match="fraction is 1.5"):
        split_dev_sentences(corpus, 1.5, 0)


def test_a_split_shares_no_sentence_with_train_if_there_are_no_documents():
    for documents in (lambda index: 0, lambda index: index):
        sentences = [Sentence([str(i % 10)], ["O"], documents(i), f"x:{i}") for i in range(200)]
        train, dev = split_dev_sentences(sentences, 0.1, 0)
        assert len(train) + len(dev) == 200 and dev
        assert not {s.words[0] for s in train} & {s.words[0] for s in dev}
    same = [Sentence(["a"], ["O"], 0, f"x:{i}") for i in range(20)]
    assert len(split_dev_sentences(same, 0.1, 0)[1]) == 2


def test_overlap_counts_dev_sentences():
    train, dev = sentences_of([0, 0, 0]), sentences_of([0, 0])
    assert find_sentence_overlap(train, dev).sum() == 2
    assert find_sentence_overlap(train, dev + dev).sum() == 4
    assert find_sentence_overlap(train, [Sentence(["w9"], None, 0, "f:1")]).sum() == 0


def split_dev_texts(examples, fraction, seed):
    return split_dev_labelled(
        examples, [(example.text, example.pair) for example in examples], fraction, seed
    )


def labelled_texts(labels):
    return [LabelledText(f"text {i}", None, label, f"x:{i}") for i, label in enumerate(labels)]


@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=2, max_size=80), st.floats(0.05, 0.5), st.integers(0, 99)
)
def test_a_dev_set_keeps_the_shares_of_labels_and_leaves_train_every_label(labels, fraction, seed):
    examples = labelled_texts(labels)
    train, dev = split_dev_texts(examples, fraction, seed)
    assert sorted(train + dev, key=examples.index) == examples
    assert train == sorted(train, key=examples.index) and dev == sorted(dev, key=examples.index)
    assert split_dev_texts(examples, fraction, seed) == (train, dev)
    assert train and dev
    counts, dev_counts = Counter(labels), Counter(e.label for e in dev)
    if max(counts.values()) > 1:
        assert set(e.label for e in train) == set(labels)
        for label, count in counts.items():
            assert abs(dev_counts[label] - fraction * count * (count > 1)) < 2


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=2, max_size=60),
    st.floats(0.05, 0.5),
    st.integers(0, 9),
)
def test_a_dev_set_shares_no_text_with_train(rows, fraction, seed):
    examples = [LabelledText(f"text {n}", None, label, f"x:{i}") for i, (n, label) in enumerate(rows)]
    train, dev = split_dev_texts(examples, fraction, seed)
    assert train and dev and sorted(train + dev, key=examples.index) == examples
    if len({n for n, _ in rows}) > 1:
        assert find_text_overlap(train, dev).sum() == 0


def test_other_labels_are_split_at_random():
    for values in ([("a",), ()] * 50, [0.5, 1.5] * 50):
        train, dev = split_dev_texts(labelled_texts(values), 0.2, 1)
        assert len(dev) == 20 and split_dev_texts(labelled_texts(values), 0.2, 2)[1] != dev
    with pytest.raises(UserError, match="1 example in the training data: none can be split off"):
        split_dev_texts(labelled_texts(["a"]), 0.1, 0)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(0, 5))
def test_a_dev_set_shares_no_context_with_train(contexts, seed):
    questions = [Question(str(i), "q", f"c{c}", (), "x") for i, c in enumerate(contexts)]
    train, dev = split_dev_questions(questions, 0.2, seed)
    assert train and dev
    assert sorted(train + dev, key=lambda q: int(q.id)) == questions
    if len(set(contexts)) > 1:
        assert find_question_overlap(train, dev).sum() == 0


def test_one_question_cannot_be_split():
    with pytest.raises(UserError, match="1 question in the training data: none can be split off"):
        split_dev_questions([Question("1", "q", "c", (), "x")], 0.1, 0)


def test_a_document_is_cut_at_a_line():
    document = Document("A:\r\nNo.\r\n \r\nB:\n  Yes\u2028 and\n\n\n<end>\nC", 0, "play.txt:1")
    train, dev = cut_document(document, 0.3)
    assert train.text + dev.text == document.text and train.text.endswith("\n")
    with pytest.raises(UserError, match="a single short text: no dev set can be split off"):
        cut_document(Document("x", 0, "x:1"), 0.5)
