"""Long texts are tokenized in pieces, and get the tokens, characters and counts of the whole text."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxft.data.encoding import text_tokens
from jaxft.data.encoding.document_tokens import make_token_stream
from jaxft.data.encoding.text_tokens import tokenize_pieces, tokenize_texts
from jaxft.data.encoding.tokenizer import tokenize
from tests.data import vocabularies
from tests.data.tiny_text import minilm
from tests.data.vocabularies import KINDS, make_tokenizer

TEXTS = st.lists(
    st.text("ab 中é\u0301\n'.", max_size=30)
    | st.lists(
        st.sampled_from(
            [
                "word",
                "don't",
                " ",
                "  ",
                "\n",
                "3.5",
                "<mask>",
                "[SEP]",
                "ＡＢ",
                "😀",
                "\u200b",
                "中国",
                "İ",
                "_",
            ]
        ),
        max_size=30,
    ).map("".join),
    min_size=1,
    max_size=6,
)


def byte_level(*, prefix: bool = False, trims: bool = False, added=()) -> PreTrainedTokenizerFast:
    """Returns a tokenizer like GPT-2's, whose tokens are bytes and some pairs of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "w"), ("o", "r"), ("Ġ", "a"), ("a", "b"), ("Ġ", "Ġ"), ("Ċ", "Ċ")]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *map("".join, merges)])}
    tiny = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tiny.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tiny.post_processor = processors.ByteLevel(trim_offsets=trims, add_prefix_space=prefix)
    tiny.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tiny)


@pytest.fixture(scope="module")
def word_pieces():
    return minilm()


def whole_tokens(tokenizer, texts):
    return [
        (encoding.ids, [start for start, _ in encoding.offsets], [end for _, end in encoding.offsets])
        for encoding in tokenize(tokenizer, texts)
    ]


MASK = AddedToken("<mask>", lstrip=True, rstrip=True)


def unigram(pre_tokenizer) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of SentencePiece's vocabulary, which splits texts by `pre_tokenizer`."""
    backend = tokenizers.Tokenizer.from_str(make_tokenizer("xlm-roberta").backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    "kind",
    [
        "word pieces",
        "bytes",
        "bytes after a space",
        "bytes, spaces trimmed",
        *("roberta", "xlm-roberta", "camembert", "deberta-v2", "mpnet"),
        *("metaspace always", "metaspace first", "metaspace never"),
    ],
)
def test_pieces_have_the_tokens_of_the_whole_text(kind, word_pieces):
    if kind in KINDS:
        tokenizer = make_tokenizer(kind)
    elif kind.startswith("metaspace"):
        tokenizer = unigram(pre_tokenizers.Metaspace(prepend_scheme=kind.split()[1]))
    else:
        tokenizer = {
            "word pieces": word_pieces,
            "bytes": byte_level(added=[MASK]),
            "bytes after a space": byte_level(prefix=True),
            "bytes, spaces trimmed": byte_level(trims=True),
        }[kind]

    @settings(max_examples=80)
    @given(TEXTS | st.lists(vocabularies.TEXTS, min_size=1, max_size=6), st.integers(1, 12))
    def check(texts, size):
        expected = whole_tokens(tokenizer, texts)
        stream = make_token_stream(texts, tokenizer, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_tokens, "PIECE_CHARACTERS", size)
            patch.setattr(text_tokens, "CALL_CHARACTERS", 2 * size)
            actual = tokenize_texts(tokenizer, texts, with_characters=True)
            assert [tuple(map(list, tokens)) for tokens in actual] == expected
            assert [list(tokens.ids) for tokens in tokenize_texts(tokenizer, texts)] == [
                e[0] for e in expected
            ]
            for column, expected_column in zip(make_token_stream(texts, tokenizer, 0), stream, strict=True):
                np.testing.assert_array_equal(column, expected_column)

    check()


def test_text_is_cut_only_where_that_changes_no_token(word_pieces, monkeypatch):
    monkeypatch.setattr(text_tokens, "PIECE_CHARACTERS", 4)

    def pieces(tokenizer, text):
        return [content for call, _ in tokenize_pieces(tokenizer, [text]) for _, _, content in call]

    assert pieces(byte_level(), "one two <x> three  four five") == ["one two <x> three  four", " five"]
    assert pieces(word_pieces, "中国中国中国 one") == ["中国中国", "中国 one"]
    assert len(pieces(byte_level(), "中国中国中国 one")) == 2
    for kind in KINDS:
        assert pieces(make_tokenizer(kind), "one two three four") == ["one two", " three", " four"]
    backend = tokenizers.Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizers.Prepend("x")
    unlike_its_pieces = [
        PreTrainedTokenizerFast(tokenizer_object=backend),
        byte_level(prefix=True, trims=True),
        byte_level(added=[AddedToken("two three")]),
        byte_level(added=[AddedToken("three", lstrip=True)]),
        unigram(pre_tokenizers.Metaspace(split=False)),
    ]
    assert [len(pieces(tokenizer, "one two three four")) for tokenizer in unlike_its_pieces] == [1] * 5
