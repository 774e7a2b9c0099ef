"""Texts of several tasks are joined where they are the same, and each task gets its windows back."""

import numpy as np
import pytest

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.encoding.shared_texts import (
    EncodedTexts,
    combine_windows,
    join_examples,
    parse_data_sets,
    select_task_windows,
    split_dev_texts,
)
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError
from tests.data.tiny_text import LABELS, plain, tokenizer


def test_data_sets_are_read_by_the_tasks_before_the_equals_sign(tmp_path):
    both = ("a", "b")
    assert parse_data_sets("x.jsonl?fold=1", both) == [(both, "x.jsonl?fold=1")]
    assert parse_data_sets("a=x.csv; a,b=y?k=1;z", both) == [(("a",), "x.csv"), (both, "y?k=1"), (both, "z")]
    (tmp_path / "odd;a=1.csv").write_text("")
    assert parse_data_sets(str(tmp_path / "odd;a=1.csv"), both) == [(both, str(tmp_path / "odd;a=1.csv"))]
    with pytest.raises(UserError, match="c=x.csv: 'c' is no task; expected FILE or TASK=FILE, .* a, b"):
        parse_data_sets("c=x.csv", both)


def test_examples_of_the_same_text_and_place_become_one():
    """Other texts of that place, and pairs, stay by themselves."""
    words = Sentence(["x", "y"], ["O", "O"], 0, "f:1", "x y", [(0, 1), (2, 3)])
    texts = [LabelledText("x y", None, "l", "f:1"), LabelledText("x y", None, "l", "f:2")]
    pair = LabelledText("x y", "z", "l", "f:1")
    joined = join_examples({"a": [words], "b": texts, "c": [pair], "d": [words]}, 0)
    assert [(sorted(text.examples), text.origin) for text in joined] == [
        (["a", "b", "d"], "f:1"),
        (["b"], "f:2"),
        (["c"], "f:1"),
    ]


def test_tasks_that_cut_a_text_into_different_words_are_refused():
    first = Sentence(["xy"], ["O"], 0, "f:1", "xy", [(0, 2)])
    second = Sentence(["x", "y"], ["O", "O"], 0, "f:1", "xy", [(0, 1), (1, 2)])
    with pytest.raises(UserError, match="f:1: the tasks a and b cut the text into different words"):
        join_examples({"a": [first], "b": [second]}, 0)


def test_a_dev_set_takes_its_share_of_each_data_set():
    texts = [
        text
        for data_set, count in enumerate((10, 2))
        for text in join_examples(
            {"a": [LabelledText(str(i), None, "l", f"f{data_set}:{i}") for i in range(count)]}, data_set
        )
    ]
    train, dev = split_dev_texts(texts, 0.3, seed=0)
    assert [text.data_set for text in dev] == [0, 0, 0, 1]
    assert sorted(text.origin for text in train + dev) == sorted(text.origin for text in texts)
    with pytest.raises(UserError, match="1 text in data set 2 of the training data: none can be split off"):
        split_dev_texts(texts[:-1], 0.3, seed=0)


def test_each_task_gets_its_windows_back():
    """Texts 0 and 2 are read as words, by a task that labels words; text 1 by another, which also labels text 2."""
    corpus = plain("ab cd ef", "gh " * 20)
    words = encode_sentences(corpus, tokenizer(), LABELS, max_length=16)
    example = LabelledText("ab gh", None, None, "x:1")
    text = encode_labelled_texts([example], np.array([2]), np.array([True]), tokenizer(), max_length=16)
    shares = 1 / np.bincount(words.sentence)[words.sentence]
    no_loss = np.zeros(len(words), np.int32)
    as_words = EncodedTexts(
        words, np.array([0, 2])[words.sentence], shares, no_loss, words.word, {"a": words.labels}
    )
    as_text = EncodedTexts(text, np.array([1]), text.column("weights"), text.column("lost"), None, {})
    text_labels = {"b": (np.array([0, 2, 1]), np.array([False, True, True]))}
    combined = combine_windows([as_words, as_text], np.array([0, 0, 1]), ["a"], text_labels, ["a", "b"])

    task_weights = combined.column("task_weights")
    assert task_weights[:, 0].tolist() == [*words.label_counts, 0]
    assert task_weights[:, 1].tolist() == pytest.approx([0, *shares[1:], 1])
    assert combined.column("data_set").tolist() == [0] + [1] * (len(words) - 1) + [0]
    windows, numbers = select_task_windows(combined, "a", np.array([True, False, True]))
    assert numbers.tolist() == [*range(len(words)), -1]
    for name in ("input_ids", "labels", "word", "sentence"):
        assert windows.column(name).tolist() == words.column(name).tolist()
    windows, numbers = select_task_windows(combined, "b", np.array([False, True, True]))
    assert numbers.tolist() == [-1, *range(len(words))]
    assert windows.sentence.tolist() == [1] * (len(words) - 1) + [0]
    assert windows.column("labels").tolist() == [1] * (len(words) - 1) + [2]
    assert windows.column("weights").tolist() == pytest.approx([*shares[1:], 1])
