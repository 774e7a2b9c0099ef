"""Windows of texts are framed and shortened as in transformers, or hold all of a text, and keep their labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.batching.batch import segment_labels
from jaxft.data.batching.choice import make_loader
from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.errors import UserError
from tests.data.tiny_text import minilm, tokenizer

TEXTS = st.lists(st.sampled_from("abcdefgh"), max_size=40).map(" ".join)


def windows_of(pairs, max_length=16, tokenizer=tokenizer, labels=None, **options):
    """Encodes pairs (text, second text or None); the labels are by default their numbers."""
    examples = [LabelledText(text, pair, None, f"x:{i}") for i, (text, pair) in enumerate(pairs)]
    labels = np.arange(len(examples), dtype=np.int32) if labels is None else labels
    is_known = np.ones(len(examples), bool)
    return encode_labelled_texts(examples, labels, is_known, tokenizer(), max_length=max_length, **options)


def split_column(windows, name="input_ids"):
    """Returns a column of token values as a list for each window."""
    return [a.tolist() for a in np.split(windows.column(name), windows.offsets[1:-1])]


@settings(max_examples=80)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.booleans(), st.integers(8, 40))
def test_head_is_what_transformers_truncation_gives(pairs, paired, max_length):
    texts, seconds = zip(*pairs, strict=True)
    seconds = list(seconds) if paired else None
    options = {"truncation": True, "max_length": max_length, "return_token_type_ids": True}
    theirs = tokenizer()(list(texts), seconds, **options)
    windows = windows_of([(a, b if paired else None) for a, b in pairs], max_length)
    assert split_column(windows) == theirs["input_ids"]
    if paired:
        assert split_column(windows, "token_type_ids") == theirs["token_type_ids"]
    full = tokenizer()(list(texts), seconds)["input_ids"]
    assert windows.column("lost").tolist() == [max(len(ids) - max_length, 0) for ids in full]


def test_long_texts_keep_their_tail_or_head_and_tail():
    text = "a b c d e f g h a b c d"
    ids = tokenizer()(text)["input_ids"][1:-1]
    [tail] = split_column(windows_of([(text, None)], 10, truncation="tail"))
    assert tail[1:-1] == ids[-8:]
    [head_and_tail] = split_column(windows_of([(text, None)], 10, truncation="head+tail"))
    assert head_and_tail[1:-1] == ids[:2] + ids[-6:]
    [pair] = split_column(windows_of([(text, "a b")], 13, truncation="tail"))
    assert pair[1:-1] == [*ids[-8:], 3, *ids[:2]]


@settings(max_examples=80)
@given(TEXTS, st.none() | TEXTS, st.integers(10, 24), st.integers(0, 2))
def test_windows_hold_all_of_the_longer_text(text, pair, max_length, stride):
    """They have one length, are as few as possible, share at least the stride, and their weights add up to 1."""
    windows = windows_of([(text, pair)], max_length, truncation="windows", stride=stride)
    framed = split_column(windows)
    count = len(framed)
    assert windows.column("weights").sum() == pytest.approx(1)
    assert windows.column("labels").tolist() == windows.sentence.tolist() == [0] * count
    assert max(map(len, framed)) <= max_length and len({len(ids) for ids in framed}) == 1
    longer = max(text, pair or "", key=lambda t: len(t.split()))
    if len(text.split()) == len((pair or "").split()):
        longer = text
    text_ids = tokenizer()(longer)["input_ids"][1:-1]
    pieces = [ids[1:-1] for ids in framed]  # of the longer text
    lost = 0
    if pair is not None:
        sides = [(ids[: ids.index(3)], ids[ids.index(3) + 1 :]) for ids in pieces]
        pieces = [side[longer is not text] for side in sides]
        assert len({tuple(side[longer is text]) for side in sides}) == 1
        shorter = pair if longer is text else text
        lost = len(tokenizer()(shorter)["input_ids"]) - 2 - len(sides[0][longer is text])
    assert windows.column("lost").tolist() == [lost] * count
    covered = len(pieces[0])
    start = 0
    for before, piece in itertools.pairwise(pieces):
        # The piece may stand in several places: take the farthest one that leaves no gap and shares the stride.
        starts = range(start, start + len(before) - stride + 1)
        start = max(s for s in starts if text_ids[s : s + len(piece)] == piece)
        covered = start + len(piece)
    assert covered >= len(text_ids) or count == 1 and pieces[0] == text_ids
    if count > 1:
        size = max_length - 2 if pair is None else len(pieces[0])
        assert count <= -(-(len(text_ids) - stride) // max(size - stride, 1))


def test_a_real_tokenizers_padding_and_truncation_have_no_effect():
    """MiniLM's tokenizer file pads to 128 tokens and cuts there."""
    text, pair = "The cat sat. " * 90, "A dog?"
    windows = windows_of([(text, pair)], 200, minilm, truncation="head")
    theirs = minilm()(text, pair, truncation=True, max_length=200)
    assert split_column(windows) == [theirs["input_ids"]]
    assert split_column(windows, "token_type_ids") == [theirs["token_type_ids"]]


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12), st.integers(1, 6), st.booleans())
def test_a_batch_holds_for_each_segment_what_belongs_to_its_window(pairs, segments, vector):
    labels = np.random.default_rng(0).random((len(pairs), 3) if vector else len(pairs)).astype(np.float32)
    windows = windows_of(pairs, 24, labels=labels)
    arrays = segment_labels(np.float32, (3,) if vector else ())
    loader = make_loader(windows, rows=3, max_length=32, arrays=arrays, max_segments=segments)
    seen = []
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        assert batch.arrays.keys() == arrays.keys()
        for name, spec in arrays.items():
            assert batch.arrays[name].shape == spec.shape_in(3, 32, segments), name
            assert batch.arrays[name].dtype == spec.dtype, name
        used = batch.windows >= 0
        assert (batch.arrays["weights"][~used] == 0).all() and (batch.arrays["labels"][~used] == 0).all()
        for row, segment in np.argwhere(used):
            window, start = batch.windows[row, segment], batch.arrays["starts"][row, segment]
            slots = slice(start, start + windows.lengths[window])
            assert (batch.arrays["segment_ids"][row, slots] == segment + 1).all()
            assert batch.arrays["input_ids"][row, slots].tolist() == split_column(windows)[window]
            types = batch.arrays["token_type_ids"][row, slots].tolist()
            assert types == split_column(windows, "token_type_ids")[window]
            np.testing.assert_array_equal(batch.arrays["labels"][row, segment], labels[window])
            assert batch.arrays["weights"][row, segment] == 1
            seen.append(window)
    assert sorted(seen) == list(range(len(pairs)))


def test_the_cache_distinguishes_labels_texts_and_settings(tmp_path):
    def encode(*arguments, **options):
        windows = windows_of(*arguments, cache_dir=tmp_path, **options)
        return split_column(windows), windows.column("labels").tolist()

    text = "a b c d e f g h"
    assert encode([(text, None)]) == encode([(text, None)])
    assert len(list(tmp_path.iterdir())) == 1
    variants = [
        encode([(text, "a")]),
        encode([(text, None)], 8),
        encode([(text, None)], 8, truncation="tail"),
        encode([(text, None)], labels=np.array([5], np.int32)),
        encode([(text, None)], labels=np.array([[1, 0]], np.float32)),
    ]
    assert len({str(v) for v in variants}) == 5 and len(list(tmp_path.iterdir())) == 6


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(
        UserError, match=r"config.data.stride=14: expected 0 to 13 with config.data.max_length=16"
    ):
        windows_of([("a", None)], truncation="windows", stride=14)
    with pytest.raises(UserError, match=r"config.data.stride=6: expected 0 to 5 with"):
        windows_of([("a", "b")], truncation="windows", stride=6)
    with pytest.raises(
        UserError, match="config.data.max_length=4 leaves no room for text beside 3 special tokens"
    ):
        windows_of([("a", "b")], 4)
