"""Windows of questions are those of run_qa.py, and the labels are the tokens that hold an answer's characters."""

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


def window_slices(windows):
    return [slice(*windows.offsets[i : i + 2]) for i in range(len(windows))]


@st.composite
def questions(draw):
    """Draws contexts of up to 60 tokens, where some characters have no token, with answers from anywhere in them."""
    drawn = []
    for _ in range(draw(st.integers(1, 4))):
        words = draw(
            st.lists(WORDS.filter(lambda w: w.isprintable() or w == "\x00"), min_size=1, max_size=10)
        )
        context = " ".join(word for word in words if "\ud83d" not in word) or "a"
        text = draw(st.text("abc ", min_size=1, max_size=8))
        low = draw(st.integers(0, len(context) - 1))
        span = (low, draw(st.integers(low + 1, len(context))))
        has_answer = draw(st.booleans()) and bool(context[slice(*span)].strip())
        drawn.append(question(text, context, *([span] if has_answer else [])))
    return drawn


@settings(max_examples=40)
@given(questions(), st.integers(0, 5))
def test_windows_are_those_of_run_qa(examples, stride):
    """They equal those of its tokenizer call, and so do the characters of each token and the tokens of each answer."""
    length = 24
    windows = encode_questions(examples, tokenizer(), max_length=length, stride=stride)
    theirs = tokenizer()(
        [q.question for q in examples],
        [q.context for q in examples],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    slices = window_slices(windows)
    assert [windows.input_ids[s].tolist() for s in slices] == theirs["input_ids"]
    assert [windows.column("token_type_ids")[s].tolist() for s in slices] == theirs["token_type_ids"]
    assert windows.sentence.tolist() == theirs["overflow_to_sample_mapping"]
    for index, tokens in enumerate(slices):
        example = examples[windows.sentence[index]]
        offsets = theirs["offset_mapping"][index]
        inside = [slot for slot, sequence in enumerate(theirs.sequence_ids(index)) if sequence == 1]
        starts, ends = (windows.column(name)[tokens].tolist() for name in ("char_start", "char_end"))
        chars = list(zip(starts, ends, strict=True))
        assert [chars[slot] for slot in inside] == [tuple(offsets[slot]) for slot in inside]
        assert all(span == (-1, -1) for slot, span in enumerate(chars) if slot not in inside)
        first, last = windows.column("labels")[index]
        if last:
            [answer] = example.answers
            text = answer.text.strip()
            low = answer.start + answer.text.index(text)
            high = low + len(text)
            # The first token that ends within or after the answer's beginning, the last that begins before its end.
            assert first == min(p for p in inside if offsets[p][1] > low)
            assert last == max(p for p in inside if offsets[p][0] < high)


@settings(max_examples=40)
@given(questions())
def test_an_answer_is_in_a_window_or_its_question_has_no_weight(examples):
    windows = encode_questions(examples, tokenizer(), max_length=16, stride=2)
    spans, weights = windows.column("labels"), windows.column("weights")
    for index, example in enumerate(examples):
        is_of_example = windows.sentence == index
        has_answer = (spans[is_of_example, 1] > 0).any()
        assert set(weights[is_of_example]) == {1.0 if has_answer or not example.answers else 0.0}


def test_labels_worked_out_by_hand():
    """[CLS] a [SEP] b ##c d e [SEP]: "d e" is at 5 and 6; an answer within a word is the tokens that it touches."""

    def encode(example, **options):
        return encode_questions([example], tokenizer(), max_length=16, **options)

    windows = encode(question("a", "bc d e", (3, 6)))
    assert windows.column("labels").tolist() == [[5, 6]]
    assert windows.column("token_type_ids").tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert encode(question("a", "bc d e", (1, 2))).column("labels").tolist() == [[4, 4]]
    assert encode(question("a", "bc d e", (2, 4))).column("labels").tolist() == [[5, 5]]  # " d"
    # Of several answers, a window is labelled with the first one that it holds.
    windows = encode(question("a", " ".join("abcdefgh" * 3), (40, 41), (0, 1)), stride=0)
    assert windows.column("labels").tolist() == [[3, 3], [3 + 20 - 12, 3 + 20 - 12]]


def test_long_questions_keep_their_beginning():
    example = question("a b c d e f g h a b", "e f g h a b c d", (0, 1))
    windows = encode_questions([example], tokenizer(), max_length=13, stride=1)
    assert windows.lengths.max() <= 13 and set(windows.column("lost")) == {5}
    assert windows.input_ids[:7].tolist() == [2, 4, 6, 8, 10, 12, 3]
    assert len(windows) == 2 and windows.column("labels")[0].tolist() == [7, 7]


def test_cached_windows_are_the_same(tmp_path):
    examples = [question("a", "b c d", (0, 1))]
    first, second = (
        encode_questions(examples, tokenizer(), max_length=16, cache_dir=tmp_path) for _ in range(2)
    )
    assert first.record_batch.equals(second.record_batch) and len(list(tmp_path.iterdir())) == 1
    encode_questions([question("a", "b c d", (2, 3))], tokenizer(), max_length=16, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("length", "stride", "message"),
    [
        (4, None, "config.data.max_length=4 leaves no room for text beside 3 special tokens"),
        (16, 7, "config.data.stride=7: expected 0 to 6 with config.data.max_length=16"),
    ],
)
def test_settings_that_cannot_work_are_refused(length, stride, message):
    with pytest.raises(UserError, match=message):
        encode_questions([question("a", "b")], tokenizer(), max_length=length, stride=stride)
    assert np.all(encode_questions([question("a", "b")], tokenizer(), max_length=16).column("weights") == 1)
