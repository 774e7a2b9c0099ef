"""CoNLL columns: every word is kept, with its tag, document and place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences.tag_schemes import convert_tags_to_iob2, extract_entities
from tests.conftest import REPOSITORY
from tests.data.sources.conftest import read_list, word_tag_pairs

WNUT = REPOSITORY / "../shared/data/wnut17"


def test_conll_gives_documents_columns_and_origin(write_source):
    path = write_source(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects   VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
        "-DOCSTART- -X- -X- O\nParis NNP B-NP B-LOC"
    )
    sentences = read_list(path)
    assert word_tag_pairs(sentences) == [
        [("EU", "B-ORG"), ("rejects", "O")],
        [("Peter", "B-PER")],
        [("Paris", "B-LOC")],
    ]
    assert [s.document for s in sentences] == [0, 0, 1]
    assert [s.origin for s in sentences] == [f"{path}:{line}" for line in (3, 7, 9)]
    assert word_tag_pairs(read_list(path, word_column=-4, tag_column=1))[0] == [
        ("EU", "NNP"),
        ("rejects", "VBZ"),
    ]
    assert read_list(path, tagged=False)[0].tags is None


def test_conll_keeps_odd_words_between_its_separators(write_source):
    # BOM, CRLF, a lone tab and spaces as separators, words with a space, of U+00A0, and with U+2028 or
    # U+0085 inside, which are line ends to Python but not to the format.
    content = "\ufeffNew York\tB-LOC\r\n\xa0\tO\r\n\t\r\na\u2028b\tO\n   \nc\x85d\tB-PER\n"
    assert word_tag_pairs(read_list(write_source(content))) == [
        [("New York", "B-LOC"), ("\xa0", "O")],
        [("a\u2028b", "O")],
        [("c\x85d", "B-PER")],
    ]
    # U+00A0 does not divide columns of a line without tabs either.
    assert word_tag_pairs(read_list(write_source("a\xa0b  O \n"))) == [[("a\xa0b", "O")]]


def test_conll_comments_never_cost_a_word(write_source):
    content = "# id = 7\n# text = a # b\n# O\n#tag O\nb O\n\n# one alone\n\n# O\n\n#\tsource [1]\tx\nc\tO\n"
    assert [s.words for s in read_list(write_source(content))] == [["#", "#tag", "b"], ["#"], ["c"]]
    assert [s.words for s in read_list(write_source("# a comment\n#\n#tag\nb\n"), tagged=False)] == [
        ["#", "#tag", "b"]
    ]


_WORDS = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=6
)


@given(
    st.lists(
        st.lists(
            st.tuples(_WORDS.filter(lambda w: w.strip()), st.sampled_from(["O", "B-X"])),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_conll_round_trip_keeps_every_word(tmp_path_factory, corpus):
    path = tmp_path_factory.mktemp("conll") / "words.tsv"
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in corpus)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert word_tag_pairs(read_list(str(path))) == corpus


@pytest.mark.skipif(not WNUT.exists(), reason="needs ../shared/data/wnut17")
@pytest.mark.parametrize(("name", "words"), [("train.conll", 62730), ("dev.conll", 15733)])
def test_wnut17_is_read_whole(name, words):
    path = WNUT / name
    sentences = read_list(str(path))
    # Written out again it is the file, but for its separators: some are empty lines and some a lone tab.
    expected = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    assert [f"{w}\t{t}" for s in sentences for w, t in word_tag_pairs([s])[0]] == expected
    assert sum(len(s.words) for s in sentences) == words
    types = {
        entity_type
        for s in sentences
        for entity_type, _, _ in extract_entities(convert_tags_to_iob2(s.tags, "iob2", s.origin)[0])
    }
    assert types == {"corporation", "creative-work", "group", "location", "person", "product"}
