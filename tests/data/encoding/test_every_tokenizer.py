"""Words, texts, pairs and answers find their tokens through each kind of tokenizer, in any script and any spaces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.encoding.tokenizer import tokenize
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Answer, Question
from jaxft.data.sources.tagged_sentences.sentence import Sentence, split_words
from tests.data.vocabularies import KINDS, TEXTS, WORDS, make_tokenizer

LABELS = {"O": 0, "B-X": 1, "I-X": 2}


def split_column(windows, name="input_ids"):
    return [a.tolist() for a in np.split(windows.column(name), windows.offsets[1:-1])] if len(windows) else []


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_scores_its_own_tokens_once(kind):
    """Also words without a token, words of spaces, and the words of raw text."""
    tokenizer = make_tokenizer(kind, reads_words=True)
    frame = tokenizer("")["input_ids"]
    assert len(frame) == 2

    def tokens_of(word):
        valid = word.encode("utf-8", "ignore").decode()
        return tokenize(tokenizer, [[valid]], is_split_into_words=True)[0].ids or [tokenizer.unk_token_id]

    @settings(max_examples=60)
    @given(
        st.lists(WORDS, max_size=12) | TEXTS.map(lambda text: [text[a:b] for a, b in split_words(text)]),
        st.integers(3, 40),
        st.sampled_from(["first", "last", "all"]),
        st.data(),
    )
    def check(words, max_length, label_subwords, data):
        tags = data.draw(st.lists(st.sampled_from([*LABELS]), min_size=len(words), max_size=len(words)))
        windows = encode_sentences(
            [Sentence(words, tags, 0, "x:1")],
            tokenizer,
            LABELS,
            max_length=max_length,
            label_subwords=label_subwords,
        )
        scored = []
        columns = (split_column(windows, name) for name in ("input_ids", "labels", "word"))
        for ids, labels, numbers in zip(*columns, strict=True):
            assert [ids[0], ids[-1]] == frame and len(ids) <= max_length
            for slot, number in enumerate(numbers):
                if number >= 0:
                    tokens = tokens_of(words[number])[: max_length - 2]
                    first = slot - len(tokens) + 1 if label_subwords == "last" else slot
                    assert ids[first : first + len(tokens)] == tokens
                    assert labels[slot] == LABELS[tags[number]]
                    scored.append(number)
        assert scored == list(range(len(words)))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_words_are_those_at_their_characters_in_the_text(kind):
    tokenizer = make_tokenizer(kind, reads_words=True)
    # Next to a special token, a space that was not there is added.
    words_without_space = WORDS.map(
        lambda word: "".join(word.encode("utf-8", "ignore").decode().split()).replace("<", "")
    )

    @settings(max_examples=60)
    @given(st.lists(words_without_space.filter(bool), min_size=1, max_size=12))
    def check(words):
        # A format character at a word's border may join it to the space, as in "a\u200b b".
        words = ["x" + word + "x" for word in words]
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        [in_text], [in_words] = (
            tokenize(tokenizer, [" ".join(words)]),
            tokenize(tokenizer, [words], is_split_into_words=True),
        )
        assert in_words.ids == in_text.ids
        starts = [start for start, _ in in_text.offsets]
        assert in_words.word_ids == np.searchsorted(ends, starts, side="right").tolist()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_pairs_are_framed_and_shortened_as_by_transformers(kind):
    tokenizer = make_tokenizer(kind)

    @settings(max_examples=60)
    @given(TEXTS, st.none() | TEXTS, st.integers(6, 40))
    def check(text, pair, max_length):
        examples = [LabelledText(text, pair, None, "x:1")]
        labels, is_known = np.zeros(1, np.int32), np.ones(1, bool)
        windows = encode_labelled_texts(examples, labels, is_known, tokenizer, max_length=max_length)
        theirs = tokenizer([text], None if pair is None else [pair], truncation=True, max_length=max_length)
        assert split_column(windows) == theirs["input_ids"]
        if pair is not None and "token_type_ids" in theirs:  # of models that read them
            assert split_column(windows, "token_type_ids") == theirs["token_type_ids"]

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_land_on_their_characters(kind):
    """The labelled tokens hold all characters of the answer that have tokens, and no token less would do.

    A window has labels if it holds all these tokens.
    """
    tokenizer = make_tokenizer(kind)

    @settings(max_examples=60)
    @given(TEXTS.filter(str.strip), TEXTS, st.integers(12, 40), st.data())
    def check(context, text, max_length, data):
        low = data.draw(st.integers(0, len(context) - 1))
        high = data.draw(st.integers(low + 1, len(context)))
        answer = context[low:high].strip()
        answers = (Answer(context[low:high], low),) if answer else ()
        question = Question("id", text, context, answers, "x:1")
        windows = encode_questions([question], tokenizer, max_length=max_length, stride=1)
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        if len(tokenize(tokenizer, [text])[0]) <= room // 2:  # else the question is shortened first
            options = {"truncation": "only_second", "max_length": max_length, "stride": 1}
            theirs = tokenizer([text], [context], return_overflowing_tokens=True, **options)
            assert split_column(windows) == theirs["input_ids"]
            if "token_type_ids" in theirs:  # of models that read them
                assert split_column(windows, "token_type_ids") == theirs["token_type_ids"]
        low += context[low:high].index(answer)
        high = low + len(answer)
        spans = tokenize(tokenizer, [context])[0].offsets
        needed = sum(start < high and end > low for start, end in spans) if answer else 0
        columns = (split_column(windows, name) for name in ("char_start", "char_end"))
        for starts, ends, (first, last) in zip(*columns, windows.column("labels"), strict=True):
            inside = [slot for slot, start in enumerate(starts) if start >= 0]
            touching = [slot for slot in inside if starts[slot] < high and ends[slot] > low]
            assert [starts[slot] for slot in inside] == sorted(starts[slot] for slot in inside)
            assert [ends[slot] for slot in inside] == sorted(ends[slot] for slot in inside)
            holds_answer = needed and len(touching) == needed
            assert [first, last] == ([touching[0], touching[-1]] if holds_answer else [0, 0])

    check()
