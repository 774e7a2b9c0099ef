"""Words of text and spans of characters: words cover the text, and no span is lost."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences.sentence import split_words, tag_words
from jaxft.data.sources.tagged_sentences.tag_schemes import extract_entities
from tests.data.sources.conftest import read_list


@given(st.text())
def test_split_words_covers_the_text(text):
    words = split_words(text)
    assert all(start < end for start, end in words)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(words))
    covered = {i for start, end in words for i in range(start, end)}
    assert covered == {i for i, character in enumerate(text) if not character.isspace()}


def test_split_words_keeps_usual_words_in_one():
    def split(text):
        return [text[start:end] for start, end in split_words(text)]

    assert split("Reuters' O'Brien (AT&T's) paid $3.50 in the U.S. on 1,000 well-known days...") == (
        "Reuters ' O'Brien ( AT&T 's ) paid $ 3.50 in the U.S. on 1,000 well-known days . . .".split()
    )
    # An accent, a variation selector and a vowel sign stay with their letter; ideographs stand alone.
    assert split("cafe\u0301 \u2764\ufe0f! हिन्दी 東京") == [
        "cafe\u0301",
        "\u2764\ufe0f",
        "!",
        "हिन्दी",
        "東",
        "京",
    ]


def test_spans_cut_words_so_that_none_is_lost(write_source):
    text = "Anti-Ford NewYork  Inc."
    labels = [(5, 9, "ORG"), (10, 13, "ADJ"), (13, 22, "LOC")]
    record = {"text": text, "spans": [{"start": s, "end": e, "label": k} for s, e, k in reversed(labels)]}
    (sentence,) = read_list(write_source([record], "data.jsonl"))
    assert sentence.words == ["Anti-", "Ford", "New", "York", "Inc", "."]
    assert sentence.tags == ["O", "B-ORG", "B-ADJ", "B-LOC", "I-LOC", "O"]
    assert [text[start:end] for start, end in sentence.offsets] == sentence.words


@given(st.text(min_size=1, max_size=30), st.data())
def test_spans_come_back_from_tags(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    labels = [(a, b, "X") for a, b in itertools.pairwise(cuts) if text[a:b].strip()]
    offsets, tags = tag_words(split_words(text), labels)
    spans = [(offsets[first][0], offsets[last - 1][1]) for _, first, last in extract_entities(tags)]

    def strip(start, end):  # whitespace at the borders of a span is in no word
        kept = [i for i in range(start, end) if not text[i].isspace()]
        return kept[0], kept[-1] + 1

    assert spans == [strip(start, end) for start, end, _ in labels]
