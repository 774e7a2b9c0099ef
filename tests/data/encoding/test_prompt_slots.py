"""Windows with slots for a prompt are those without, with slots before them that have no words and no labels."""

import functools

import numpy as np
import pytest

from jaxft.data.encoding.documents import encode_documents
from jaxft.data.encoding.encoded import ArraySpec, Placement
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Answer, Question
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from tests.data.encoding import test_documents
from tests.data.tiny_text import LABELS, tokenizer

COUNT = 3
SENTENCES = [
    Sentence(["abc", "a", "bcd"], ["B-X", "I-X", "O"], 0, "x:1"),
    Sentence(["b"] * 40, None, 1, "x:5"),
]
TEXTS = [LabelledText("abc a", "bcd", 0, "x:1"), LabelledText("a" * 40, "b", 1, "x:2")]
QUESTIONS = [
    Question("1", "a b", "abc d abc", (Answer("d", 4),), "x:1"),
    Question("2", "a", "b " * 30, (), "x:2"),
]
ENCODERS = {
    "sentences": functools.partial(encode_sentences, SENTENCES, tokenizer(), LABELS),
    "texts": functools.partial(
        encode_labelled_texts, TEXTS, np.arange(2, dtype=np.int32), np.ones(2, bool), tokenizer()
    ),
    "questions": functools.partial(encode_questions, QUESTIONS, tokenizer(), stride=2),
    "documents": functools.partial(
        encode_documents, test_documents.make_documents(["the cat", "mat " * 30]), test_documents.tokenizer()
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_windows_with_a_prompt_are_those_without_after_its_slots(name, tmp_path):
    """Also from the cache, which keeps both."""
    encode = ENCODERS[name]
    plain = encode(max_length=20, cache_dir=tmp_path)
    for _ in range(2):
        windows = encode(max_length=20, prompt_length=COUNT, cache_dir=tmp_path)
        np.testing.assert_array_equal(windows.lengths, plain.lengths + COUNT)
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    for number, (first, second) in enumerate(zip(windows.offsets, plain.offsets[:-1], strict=False)):
        size = plain.lengths[number]
        slots, tokens = slice(first, first + COUNT), slice(first + COUNT, first + COUNT + size)
        for column in windows.record_batch.schema.names:
            ours, theirs = windows.column(column), plain.column(column)
            if len(theirs) == len(plain.input_ids):
                np.testing.assert_array_equal(ours[tokens], theirs[second : second + size], err_msg=column)
                expected = {"input_ids": [-1, -2, -3], "token_type_ids": [0, 0, 0]}.get(column, [-1, -1, -1])
                assert ours[slots].tolist() == expected, column
            elif name == "questions" and column == "labels":
                assert (ours[number] - theirs[number]).tolist() == [COUNT * (number == 0)] * 2
            else:
                np.testing.assert_array_equal(ours[number], theirs[number], err_msg=column)


def test_a_batch_has_labels_and_positions_after_the_slots():
    windows = ENCODERS["sentences"](max_length=20, prompt_length=COUNT).slice(0, 1)
    zero = np.zeros(1, np.int64)
    placement = Placement(zero, zero, zero, zero + 2, windows.lengths.astype(np.int64))
    arrays = windows.fill(placement, {"labels": ArraySpec(np.int32)}, rows=1, length=20, segments=1)
    assert arrays["input_ids"][0, :6].tolist() == [0, 0, -1, -2, -3, 2]
    assert arrays["positions"][0, 2:8].tolist() == list(range(6))
    assert not arrays["weights"][0, : 2 + COUNT].any() and arrays["weights"][0, 6] == 1
