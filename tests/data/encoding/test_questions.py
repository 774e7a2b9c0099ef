"""Windows of questions: those of run_qa.py, and every answer's characters in the tokens that it is learnt from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.encoding.questions import encode_questions
from jaxft.data.sources.questions import Answer, Question
from jaxft.errors import UserError
from tests.data.tiny_text import WORDS, tokenizer


def question(text, context, *spans):
    answers = tuple(Answer(context[a:b], a) for a, b in spans)
    return Question("id", text, context, answers, "x:1")


def slices(windows):
    return [slice(*windows.offsets[i : i + 2]) for i in range(len(windows))]


@st.composite
def questions(draw):
    """Contexts of up to 60 tokens, some characters of which make none; answers from anywhere in them."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        words = draw(
            st.lists(WORDS.filter(lambda w: w.isprintable() or w == "\x00"), min_size=1, max_size=10)
        )
        context = " ".join(word for word in words if "\ud83d" not in word) or "a"
        text = draw(st.text("abc ", min_size=1, max_size=8))
        low = draw(st.integers(0, len(context) - 1))
        span = (low, draw(st.integers(low + 1, len(context))))
        found.append(
            question(text, context, *[span] * (draw(st.booleans()) and bool(context[slice(*span)].strip())))
        )
    return found


@settings(max_examples=40)
@given(questions(), st.integers(0, 5))
def test_windows_are_those_of_run_qa(found, stride):
    """As its call of the tokenizer makes them; each token's characters, and the tokens of each answer."""
    length = 24
    windows = encode_questions(found, tokenizer(), max_length=length, stride=stride)
    theirs = tokenizer()(
        [q.question for q in found],
        [q.context for q in found],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert [windows.input_ids[s].tolist() for s in slices(windows)] == theirs["input_ids"]
    assert [windows.column("token_type_ids")[s].tolist() for s in slices(windows)] == theirs["token_type_ids"]
    assert windows.sentence.tolist() == theirs["overflow_to_sample_mapping"]
    for index, tokens in enumerate(slices(windows)):
        one = found[windows.sentence[index]]
        part, offsets = theirs.sequence_ids(index), theirs["offset_mapping"][index]
        inside = [place for place, of in enumerate(part) if of == 1]
        chars = list(
            zip(*(windows.column(name)[tokens].tolist() for name in ("char_start", "char_end")), strict=True)
        )
        assert [c for place, c in enumerate(chars) if place in inside] == [tuple(offsets[p]) for p in inside]
        assert all(c == (-1, -1) for place, c in enumerate(chars) if place not in inside)
        first, last = windows.column("labels")[index]
        if last:
            text = one.answers[0].text.strip()
            low = one.answers[0].start + one.answers[0].text.index(text)
            high = low + len(text)
            # The first token that ends within or after the answer's beginning, the last that begins before its end.
            assert first == min(p for p in inside if offsets[p][1] > low)
            assert last == max(p for p in inside if offsets[p][0] < high)


@settings(max_examples=40)
@given(questions())
def test_an_answer_is_held_by_a_window_or_its_question_weighs_nothing(found):
    windows = encode_questions(found, tokenizer(), max_length=16, stride=2)
    spans, weights = windows.column("labels"), windows.column("weights")
    for index, one in enumerate(found):
        own = windows.sentence == index
        held = (spans[own, 1] > 0).any()
        assert set(weights[own]) == {1.0 if held or not one.answers else 0.0}


def test_positions_by_hand():
    """[CLS] a [SEP] b ##c d e [SEP]: "d e" stands at 5 and 6; part of a word is the tokens that it touches."""
    one = question("a", "bc d e", (3, 6))
    windows = encode_questions([one], tokenizer(), max_length=16)
    assert windows.column("labels").tolist() == [[5, 6]]
    assert windows.column("token_type_ids").tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    one = question("a", "bc d e", (1, 2))
    assert encode_questions([one], tokenizer(), max_length=16).column("labels").tolist() == [[4, 4]]
    one = question("a", "bc d e", (2, 4))  # " d"
    assert encode_questions([one], tokenizer(), max_length=16).column("labels").tolist() == [[5, 5]]
    # The first of several that a window holds, in each its own.
    context = " ".join("abcdefgh" * 3)
    one = question("a", context, (40, 41), (0, 1))
    windows = encode_questions([one], tokenizer(), max_length=16, stride=0)
    assert windows.column("labels").tolist() == [[3, 3], [3 + 20 - 12, 3 + 20 - 12]]


def test_long_questions_keep_their_beginning():
    one = question("a b c d e f g h a b", "e f g h a b c d", (0, 1))
    windows = encode_questions([one], tokenizer(), max_length=13, stride=1)
    assert windows.lengths.max() <= 13 and set(windows.column("lost")) == {5}
    assert windows.input_ids[:7].tolist() == [2, 4, 6, 8, 10, 12, 3]
    assert len(windows) == 2 and windows.column("labels")[0].tolist() == [7, 7]


def test_cached_windows_are_the_same(tmp_path):
    found = [question("a", "b c d", (0, 1))]
    one, other = (encode_questions(found, tokenizer(), max_length=16, cache_dir=tmp_path) for _ in range(2))
    assert one.record_batch.equals(other.record_batch) and len(list(tmp_path.iterdir())) == 1
    encode_questions([question("a", "b c d", (2, 3))], tokenizer(), max_length=16, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("length", "stride", "message"),
    [
        (4, None, "config.data.max_length=4 leaves no room for text beside 3 special tokens"),
        (16, 7, "config.data.stride=7: expected 0 to 6 with config.data.max_length=16"),
    ],
)
def test_settings_that_cannot_work(length, stride, message):
    with pytest.raises(UserError, match=message):
        encode_questions([question("a", "b")], tokenizer(), max_length=length, stride=stride)
    assert np.all(encode_questions([question("a", "b")], tokenizer(), max_length=16).column("weights") == 1)
