"""Every token of a text may be masked in one window, between special tokens; words are what the tokenizer splits."""

import itertools

import numpy as np
import pytest

from jaxft.data.sources.documents import Document
from jaxft.errors import UserError
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.tasks.masked_lm import encoding
from jaxft.tasks.masked_lm.encoding import encode_texts
from tests.data.vocabularies import KINDS, LINES, make_tokenizer

TEXTS = ["alice went to paris qqzz, [UNK] and [MASK] xyzzy " * 5, "bob", "  ", "carol saw alice. " * 3]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return load_tokenizer(tiny_bert)


def documents(texts):
    return [Document(text, number, f"x:{number}") for number, text in enumerate(texts)]


def read_windows(windows):
    """Returns (sentence, ids, labels, word) of each window, without its first and last token."""
    rows = []
    for window, sentence in enumerate(windows.sentence):
        first, end = windows.offsets[window : window + 2]
        inner = slice(first + 1, end - 1)
        rows.append((int(sentence), windows.input_ids[inner], windows.labels[inner], windows.word[inner]))
    return rows


@pytest.mark.parametrize("stride", [None, 5])
@pytest.mark.parametrize("chunk", [1 << 20, 10])
def test_each_token_may_be_masked_once(tokenizer, stride, chunk, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", chunk)
    windows = encode_texts(documents(TEXTS), tokenizer, max_length=16, stride=stride)
    first, last = windows.input_ids[windows.offsets[:-1]], windows.input_ids[windows.offsets[1:] - 1]
    assert set(first) == {tokenizer.cls_token_id} and set(last) == {tokenizer.sep_token_id}
    assert windows.lengths.max() == 16
    assert not np.isin(windows.labels, tokenizer.all_special_ids).any()
    assert ((windows.labels >= 0) == (windows.word >= 0)).all()
    for number, text in enumerate(TEXTS):
        rows = [row for row in read_windows(windows) if row[0] == number]
        encoded = tokenizer(text, add_special_tokens=False)
        new = [ids[0 if index == 0 or not stride else stride :] for index, (_, ids, _, _) in enumerate(rows)]
        assert np.concatenate(new).tolist() == encoded["input_ids"]
        labels = [label for _, _, labels, _ in rows for label in labels[labels >= 0]]
        assert labels == [token for token in encoded["input_ids"] if token not in tokenizer.all_special_ids]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_word_have_one_number(kind):
    tokenizer = make_tokenizer(kind)
    windows = encode_texts(documents(LINES[:7]), tokenizer, max_length=200)
    multiple = 0
    for line, (_, ids, labels, word) in zip(LINES, read_windows(windows), strict=False):
        encoding = tokenizer(line, add_special_tokens=False)
        assert ids.tolist() == encoding["input_ids"]
        pairs = {
            (ours, theirs)
            for ours, theirs, label in zip(word.tolist(), encoding.word_ids(0), labels, strict=True)
            if label >= 0
        }
        assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})
        multiple += len(ids) - len(pairs)
    assert multiple > 20


def test_blocks_hold_all_documents_in_a_row(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 10)
    windows = encode_texts(documents(TEXTS), tokenizer, max_length=16, layout="blocks")
    joined = np.concatenate([ids for _, ids, _, _ in read_windows(windows)]).tolist()
    expected = [
        tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.sep_token_id] for text in TEXTS
    ]
    assert joined == list(itertools.chain(*expected))
    assert (windows.lengths[:-1] == 16).all() and windows.sentence.tolist() == list(range(len(windows)))


def test_masks_of_texts_are_labelled_once(tokenizer):
    """Also where they are in the context of another window."""
    text = "alice [MASK] " * 20
    windows = encode_texts(
        documents([text]), tokenizer, max_length=16, stride=6, given_mask=tokenizer.mask_token_id
    )
    assert np.count_nonzero(windows.labels >= 0) == 20
    assert set(windows.input_ids[windows.labels >= 0]) == {tokenizer.mask_token_id}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": "blocks", "stride": 3}, "cuts text anywhere, so config.data.stride does not go with it"),
        ({"stride": 14}, "stride=14: a window has room for 14 tokens of text besides 2 special tokens"),
        ({"max_length": 2}, "room for 0 tokens"),
    ],
)
def test_settings_that_cannot_work(tokenizer, changed, message):
    with pytest.raises(UserError, match=message):
        encode_texts(documents(TEXTS), tokenizer, **{"max_length": 16} | changed)


def test_windows_are_cached_by_what_they_depend_on(tokenizer, tmp_path):
    def encode(**changed):
        return encode_texts(
            documents(TEXTS), tokenizer, **{"max_length": 16, "cache_dir": tmp_path} | changed
        )

    first = encode()
    assert encode().fingerprint == first.fingerprint and len(list(tmp_path.glob("*.arrow"))) == 1
    encode(stride=3), encode(max_length=20), encode(layout="blocks")
    assert len(list(tmp_path.glob("*.arrow"))) == 4
