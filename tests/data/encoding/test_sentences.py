"""Windows score every word once and never shift labels; context, chunks, bad input and the cache keep that so."""

import concurrent.futures
import itertools
import logging
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.encoding import sentences
from jaxft.data.encoding.sentence_chunks import chunk_sentences
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.encoding.tokenizer import find_special_tokens
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError
from jaxft.export.heads_loader import Model
from tests.data.tiny_text import LABELS, VOCABULARY, corpora, minilm, plain, tokenizer
from tests.data.vocabularies import KINDS, make_tokenizer

CLS, SEP, UNK = 2, 3, 1


def read_window(windows, index):
    """Returns (ids, labels, word, sentence) of one window, the first three as lists."""
    tokens = slice(*windows.offsets[index : index + 2])
    columns = (windows.input_ids, windows.labels, windows.word)
    return *(column[tokens].tolist() for column in columns), int(windows.sentence[index])


def subwords(word):
    """Returns the token ids of a word in the tiny tokenizer, worked out without it."""
    kept = "".join(c for c in word if c not in "\u200b\x00\ud83d\u200d")
    tokens = []
    for piece in kept.replace(".", " . ").split():
        is_known = all(c in "abcdefgh" for c in piece)
        letters = [("##" if i else "") + c for i, c in enumerate(piece)]
        tokens += [VOCABULARY.index(letter) for letter in letters] if is_known else [UNK]
    return tokens or [UNK]


@settings(max_examples=150)
@given(corpora(), st.integers(3, 40), st.booleans(), st.sampled_from(["first", "all"]), st.data())
def test_each_word_scores_once_with_its_own_label(corpus, max_length, context, label_subwords, data):
    stride = data.draw(st.none() | st.integers(0, max_length - 3))
    windows = encode_sentences(
        corpus,
        tokenizer(),
        LABELS,
        max_length=max_length,
        context=context,
        stride=stride,
        label_subwords=label_subwords,
    )
    seen = []
    for index in range(len(windows)):
        ids, labels, words, sentence = read_window(windows, index)
        assert len(ids) == windows.lengths[index] <= max_length
        assert ids[0] == CLS and ids[-1] == SEP
        for slot, (label, word) in enumerate(zip(labels, words, strict=True)):
            if word < 0:
                assert label == -100 or label_subwords == "all"
                continue
            seen.append((sentence, word))
            tokens = subwords(corpus[sentence].words[word])[: max_length - 2]
            assert ids[slot : slot + len(tokens)] == tokens
            tags = corpus[sentence].tags
            expected = LABELS.get(tags[word], -100) if tags else -100
            assert label == expected
            inner = {1: 2}.get(expected, expected) if label_subwords == "all" else -100
            assert labels[slot + 1 : slot + len(tokens)] == [inner] * (len(tokens) - 1)
    assert seen == [(s, w) for s, sentence in enumerate(corpus) for w in range(len(sentence.words))]


@settings(max_examples=100)
@given(
    corpora(),
    st.integers(3, 40),
    st.sampled_from(["first", "last"]),
    st.sampled_from([None, *KINDS]),
    st.data(),
)
def test_an_exports_loader_reads_words_in_the_same_windows(corpus, max_length, label_subwords, kind, data):
    stride = data.draw(st.integers(0, max_length - 3))
    model = object.__new__(Model)
    model.tokenizer = make_tokenizer(kind, reads_words=True) if kind else tokenizer()
    before, after = find_special_tokens(model.tokenizer)
    reading = {"max_length": max_length, "stride": stride, "before": before, "after": after}
    model.reading = {"words": reading | {"subword": label_subwords}}
    for sentence in corpus:
        if not (words := sentence.words):
            continue
        windows = encode_sentences(
            [Sentence(words, None, 0, "x")],
            model.tokenizer,
            LABELS,
            max_length=max_length,
            stride=stride,
            label_subwords=label_subwords,
        )
        inputs, rows, slots = model._encode_words(words)
        for index, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
            expected, _, word, _ = read_window(windows, index)
            assert ids[mask.bool()].tolist() == expected and not mask[len(expected) :].any()
            slots_of_row = [slot for row, slot in zip(rows, slots, strict=True) if row == index]
            assert slots_of_row == [slot for slot, number in enumerate(word) if number >= 0]
        assert len(rows) == len(words) and rows == sorted(rows) and rows[-1] == len(windows) - 1


def test_a_sentence_that_fits_is_encoded_as_the_tokenizer_would():
    words = ["abc", "d", "a.b", "😀", "hgfe"]
    windows = encode_sentences([Sentence(words, None, 0, "x")], tokenizer(), {}, max_length=32)
    assert read_window(windows, 0)[0] == tokenizer()(words, is_split_into_words=True)["input_ids"]
    assert len(windows) == 1


def test_sentence_of_5000_words_is_tiled_with_context_on_both_sides():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(1, 6, 5000)]
    corpus = [Sentence(words, ["O"] * 5000, 0, "long:1")]
    windows = encode_sentences(corpus, tokenizer(), LABELS, max_length=128)
    scored = np.concatenate([[w for w in read_window(windows, i)[2] if w >= 0] for i in range(len(windows))])
    assert scored.tolist() == list(range(5000))
    for index in range(1, len(windows) - 1):
        slots = np.flatnonzero(np.array(read_window(windows, index)[2]) >= 0)
        # A quarter of 126 is kept for context, half of it on each side, less the rest that no whole word fills.
        assert slots[0] - 1 >= 15 - 5 and 127 - slots[-1] >= 15 - 5
        assert windows.lengths[index] >= 128 - 2 * 5


def test_a_word_longer_than_the_window_keeps_its_beginning():
    corpus = plain("ab " + "c" * 500 + " de")
    windows = encode_sentences(corpus, tokenizer(), LABELS, max_length=16)
    ids, labels, word, _ = read_window(windows, 1)
    assert len(windows) == 3 and len(ids) == 16
    assert word == [-1, 1] + [-1] * 14 and labels == [-100, 0] + [-100] * 14


def test_words_that_tokenize_to_nothing_become_unk_and_shift_no_label():
    corpus = [Sentence(["\u200b", "ab", "", "\x00", "c"], ["B-X", "I-X", "O", "B-X", "O"], 0, "x:1")]
    ids, labels, word, _ = read_window(encode_sentences(corpus, tokenizer(), LABELS, max_length=16), 0)
    assert [VOCABULARY[i] for i in ids] == "[CLS] [UNK] a ##b [UNK] [UNK] c [SEP]".split()
    assert labels == [-100, 1, 2, -100, 0, 1, 0, -100]
    assert word == [-1, 0, 1, -1, 2, 3, 4, -1]


def test_a_tokenizer_without_unk_names_the_word_and_its_place():
    corpus = [Sentence(["ab", "\u200b"], None, 0, "tweets.conll:7")]
    with pytest.raises(UserError, match=r"tweets.conll:7: the word '\\u200b' has no tokens.*no unk token"):
        encode_sentences(corpus, tokenizer(unk=False), LABELS, max_length=16)
    assert (
        len(encode_sentences(corpus[:0] + plain("ab cd"), tokenizer(unk=False), LABELS, max_length=16)) == 1
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_length": 2}, "max_length=2 leaves no room for words beside 2 special tokens"),
        ({"max_length": 16, "stride": 14}, r"stride=14 is outside 0\.\.13"),
        (
            {"max_length": 16, "label_subwords": "some"},
            "'some' is unknown; expected 'first', 'last' or 'all'",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        encode_sentences(plain("ab"), tokenizer(), LABELS, **setting)


def test_context_fills_windows_from_the_same_document_only():
    first = plain("ab cd", "ef gh a", "b c d e", "f g")
    second = plain("hh hh hh", document=1)
    windows = encode_sentences(first + second, tokenizer(), LABELS, max_length=10, context=True)
    text = ["".join(VOCABULARY[i].strip("#") for i in read_window(windows, w)[0][1:-1]) for w in range(5)]
    # Room for 8 letters in whole words: next to "efgha" there is 1 on the left, too little for "cd".
    assert text == ["abcdefgh", "efghabcd", "abcdefg", "abcdefg", "hhhhhh"]
    assert [sum(label >= 0 for label in read_window(windows, w)[1]) for w in range(5)] == [2, 3, 4, 2, 3]


# One document of short sentences, so that context reaches over many of them.
SHORT = st.integers(20, 60).map(lambda count: plain(*["abcdefgh"[i % 8] for i in range(count)]))


@settings(max_examples=100)
@given(corpora() | SHORT, st.integers(3, 20), st.integers(1, 40), st.booleans())
def test_chunks_of_a_stream_encode_as_the_corpus_does(corpus, max_length, max_words, context):
    corpus_windows = encode_sentences(corpus, tokenizer(), LABELS, max_length=max_length, context=context)
    chunk_windows, done = [], 0
    for chunk in chunk_sentences(iter(corpus), max_words, max_length if context else 0):
        members = chunk.sentences[chunk.first : chunk.last]
        assert all(a is b for a, b in zip(members, corpus[done:], strict=False))
        assert len(members) == 1 or sum(len(s.words) for s in members) <= max_words
        windows = encode_sentences(
            chunk.sentences,
            tokenizer(),
            LABELS,
            max_length=max_length,
            context=context,
            only=range(chunk.first, chunk.last),
        )
        for index in range(len(windows)):
            *lists, sentence = read_window(windows, index)
            chunk_windows.append((*lists, sentence + done))
        done += len(members)
    assert done == len(corpus)
    assert chunk_windows == [read_window(corpus_windows, index) for index in range(len(corpus_windows))]


def test_chunks_read_no_more_than_they_need():
    read = []
    stream = (read.append(i) or s for i, s in enumerate(plain(*["a b c d"] * 1000)))
    for index, chunk in enumerate(itertools.islice(chunk_sentences(stream, 40, 20), 10)):
        assert len(chunk.sentences) <= 10 + 5 + 6
        assert len(read) <= (index + 1) * 10 + 6


def fail_to_encode(*_, **__):
    raise AssertionError("encoded again")


def equal(windows, other):
    return windows.record_batch.equals(other.record_batch)


def test_cache_is_used_for_the_same_and_only_the_equal(tmp_path, monkeypatch):
    corpus = plain("ab cd", "ef " * 40)
    settings = {"max_length": 16, "cache_dir": tmp_path}
    fresh = encode_sentences(corpus, tokenizer(), LABELS, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(sentences, "_encode", fail_to_encode)
        assert equal(encode_sentences(corpus, tokenizer(), LABELS, **settings), fresh)
        changed_tag = [Sentence(corpus[0].words, ["O", "B-X"], 0, "x"), corpus[1]]
        other_tokenizer = tokenizer().train_new_from_iterator([["abab cdcd"]], 40)
        for arguments, changed in [
            ((changed_tag, tokenizer(), LABELS), {}),
            ((corpus[:1], tokenizer(), LABELS), {}),
            ((corpus, other_tokenizer, LABELS), {}),
            ((corpus, tokenizer(), LABELS | {"B-Y": 3}), {}),
            ((corpus, tokenizer(), LABELS), {"max_length": 17}),
            ((corpus, tokenizer(), LABELS), {"label_subwords": "all"}),
            ((corpus, tokenizer(), LABELS), {"context": True}),
            ((corpus, tokenizer(), LABELS), {"stride": 5}),
        ]:
            with pytest.raises(AssertionError, match="encoded again"):
                encode_sentences(*arguments, **(settings | changed))


def test_one_of_several_threads_encodes_and_the_others_map_its_file(tmp_path, monkeypatch, caplog):
    corpus, ended, calls = plain("ab cd"), threading.Event(), []
    fresh, original = encode_sentences(corpus, tokenizer(), LABELS, max_length=16), sentences._encode

    def slow(*arguments):
        calls.append(arguments)
        assert ended.wait(60)
        return original(*arguments)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sentences, "_encode", slow)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = [
            pool.submit(encode_sentences, corpus, tokenizer(), LABELS, max_length=16, cache_dir=tmp_path)
            for _ in "ab"
        ]
        while "another process encodes the same text" not in caplog.text:
            assert not any(future.done() for future in futures)
        ended.set()
        assert all(equal(future.result(60), fresh) for future in futures)
    assert len(calls) == 1 and [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def test_the_last_call_of_a_tokenizer_does_not_change_the_fingerprint():
    before = sentences._fingerprint([], tokenizer(), LABELS, [])
    tokenizer()(["a b c"], truncation=True, max_length=4, padding="max_length")
    assert tokenizer().backend_tokenizer.truncation is not None
    assert sentences._fingerprint([], tokenizer(), LABELS, []) == before


def test_an_empty_corpus_is_cached_too(tmp_path):
    for _ in range(2):
        windows = encode_sentences([], tokenizer(), LABELS, max_length=16, cache_dir=tmp_path)
        assert len(windows) == 0 and windows.input_ids.shape == (0,)


def test_a_damaged_cache_is_encoded_again(tmp_path, caplog):
    corpus = plain("ab cd", "ef " * 40)
    fresh = encode_sentences(corpus, tokenizer(), LABELS, max_length=16)
    encode_sentences(corpus, tokenizer(), LABELS, max_length=16, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert equal(
                encode_sentences(corpus, tokenizer(), LABELS, max_length=16, cache_dir=tmp_path), fresh
            )
        assert "is damaged, so the text is encoded again" in caplog.text
        assert file.read_bytes() == content
        caplog.clear()


def test_a_write_that_dies_leaves_no_cache(tmp_path, monkeypatch, caplog):
    def die(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxft.data.encoding.cache.os.fsync", die)
    assert len(encode_sentences(plain("ab"), tokenizer(), LABELS, max_length=16, cache_dir=tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    assert "is not cached" in caplog.text and "No space left" in caplog.text


def test_text_is_encoded_without_a_cache_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    windows = encode_sentences(
        plain("ab"), tokenizer(), LABELS, max_length=16, cache_dir=tmp_path / "file" / "cache"
    )
    assert len(windows) == 1
    assert "is not cached" in caplog.text


def test_real_tokenizer_on_emoji_zero_width_and_control_characters():
    words = [
        "Zürich",
        "👩‍👩‍👧",
        "\u200b",
        "\x07",
        "don't",
        "𝓑",
        "\ud83d",
        "[SEP]",
        "",
        "antidisestablishmentarianism",
    ]
    tags = ["B-X", "O", "I-X", "O", "B-X", "O", "B-X", "O", "I-X", "B-X"]
    windows = encode_sentences([Sentence(words, tags, 0, "x:1")], minilm(), LABELS, max_length=64)
    _, labels, word, _ = read_window(windows, 0)
    assert [w for w in word if w >= 0] == list(range(len(words)))
    assert [label for label in labels if label >= 0] == [LABELS[tag] for tag in tags]
