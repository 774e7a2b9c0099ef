"""Windows for language models predict every token once, cut blocks as run_clm does, and keep targets complete."""

import functools
import itertools

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from jaxft.data.encoding import documents
from jaxft.data.encoding.documents import encode_documents
from jaxft.data.sources.documents import Document, Template
from jaxft.errors import UserError
from jaxft.hub.tokenizer_training import train_tokenizer

# Letters, characters of 2 to 4 bytes, white space of several kinds, and text that looks like a special token.
PIECES = st.sampled_from(
    [*"abcde", "é", "雪", "😀", " ", "  ", "\n", "\t", "\u00a0", "<|endoftext|", "the cat"]
)
TEXTS = st.lists(st.lists(PIECES, min_size=1, max_size=40).map("".join), min_size=1, max_size=6)


@functools.cache
def tokenizer():
    return train_tokenizer(["the cat sat on the mat and the cat ran", "abc abcd"] * 3, 300, 64)


@functools.cache
def unigram_tokenizer():
    """Returns a tokenizer like SentencePiece's: a mark begins each word, unknown characters are one token."""
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
    unigram.normalizer = tokenizers.normalizers.NFKC()
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=40, special_tokens=["<unk>", "</s>"], unk_token="<unk>"
    )
    unigram.train_from_iterator(["the cat sat on the mat and the cat ran", "abc abcd"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")


def make_documents(texts):
    return [Document(text, index, f"random:{index}") for index, text in enumerate(texts)]


def tokens(text, make_tokenizer=tokenizer):
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def ids_and_labels(windows):
    """Returns (ids, labels) of each window as lists."""
    spans = zip(windows.offsets[:-1], windows.offsets[1:], strict=True)
    return [(windows.input_ids[a:b].tolist(), windows.labels[a:b].tolist()) for a, b in spans]


@given(
    texts=TEXTS,
    max_length=st.integers(8, 24),
    stride=st.none() | st.integers(0, 7),
    make_tokenizer=st.sampled_from([tokenizer, unigram_tokenizer]),
)
def test_every_token_of_a_document_is_predicted_once_from_what_stands_before_it(
    texts, max_length, stride, make_tokenizer
):
    end = make_tokenizer().eos_token_id
    windows = encode_documents(make_documents(texts), make_tokenizer(), max_length=max_length, stride=stride)
    encoded = ids_and_labels(windows)
    assert max(len(ids) for ids, _ in encoded) <= max_length
    for index, text in enumerate(texts):
        stream = [end, *tokens(text, make_tokenizer), end]
        predicted = []
        for number, window in enumerate(np.flatnonzero(windows.sentence == index)):
            ids, labels = encoded[window]
            unscored = labels.count(-100)
            assert all(label == -100 for label in labels[:unscored])
            assert unscored == (0 if number == 0 else stride or 0)
            begin = len(predicted) - unscored  # where the window begins in the document
            assert ids == stream[begin : begin + len(ids)]
            predicted += labels[unscored:]
        assert predicted == stream[1:]
        is_of_text = windows.sentence == index
        assert windows.column("text_words")[is_of_text].sum() == len(text.split())
        assert windows.column("text_bytes")[is_of_text].sum() == len(text.encode())


def group_texts(examples: dict[str, list[list[int]]], block_size: int) -> dict[str, list[list[int]]]:
    """Cuts blocks as examples/pytorch/language-modeling/run_clm.py of transformers does."""
    concatenated = {k: list(itertools.chain(*examples[k])) for k in examples}
    total_length = len(concatenated[next(iter(examples))])
    total_length = (total_length // block_size) * block_size
    return {
        k: [t[i : i + block_size] for i in range(0, total_length, block_size)]
        for k, t in concatenated.items()
    }


@given(texts=TEXTS, max_length=st.integers(8, 16))
def test_blocks_are_those_of_run_clm(texts, max_length):
    end = tokenizer().eos_token_id
    streams = [[*tokens(text), end] for text in texts]
    expected = group_texts({"input_ids": streams}, max_length)["input_ids"]
    if not expected:
        with pytest.raises(UserError, match="fewer than one block of config.data.max_length"):
            encode_documents(make_documents(texts), tokenizer(), max_length=max_length, layout="blocks")
        return
    windows = encode_documents(make_documents(texts), tokenizer(), max_length=max_length, layout="blocks")
    encoded = ids_and_labels(windows)
    assert [ids for ids, _ in encoded] == expected
    assert all(labels == [*ids[1:], -100] for ids, labels in encoded)  # transformers shifts within the block
    # Only predicted tokens are counted: not the first tokens of blocks, and not the dropped rest.
    byte_counts, word_counts = [], []
    for text in texts:
        offsets = tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ends = np.maximum.accumulate([0, *(b for _, b in offsets)])
        spans = list(itertools.pairwise(ends))
        byte_counts += [len(text[a:b].encode()) for a, b in spans] + [0]
        word_counts += [len(text[:b].split()) - len(text[:a].split()) for a, b in spans] + [0]
    # A word cut by a token's end counts where it begins, so prefixes hold as many words as have begun in them.
    for name, values in (("text_bytes", byte_counts), ("text_words", word_counts)):
        blocks = np.array(values[: len(expected) * max_length]).reshape(-1, max_length)
        assert windows.column(name).tolist() == blocks[:, 1:].sum(axis=1).tolist()


WORDS = st.lists(st.sampled_from(["the", "cat", "mat", "a", "雪"]), min_size=1, max_size=12).map(" ".join)


@given(pairs=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), max_length=st.integers(16, 40))
def test_a_prompt_is_shortened_so_that_its_target_is_kept(pairs, max_length):
    template = Template("Q: {article} ({place})\nA: {headline}")
    texts = [
        template.fill({"article": a, "place": p, "headline": h}, i, "here", f"here:{i}")
        for i, (a, p, h) in enumerate(pairs)
    ]
    end = tokenizer().eos_token_id
    windows = encode_documents(texts, tokenizer(), max_length=max_length)
    for number, (text, (ids, labels)) in enumerate(zip(texts, ids_and_labels(windows), strict=True)):
        prompt, target = tokens(text.prompt), tokens(text.text)
        kept = ids[: labels.count(-100) + 1]
        learnt = [label for label in labels if label != -100]
        lost = windows.column("prompt_lost")[number], windows.column("target_lost")[number]
        assert len(ids) <= max_length and labels[len(kept) - 1 :] == learnt
        assert learnt == [*target, end][: max_length - len(kept) + 1]
        assert ids == [*kept, *target][:max_length]
        assert lost == (len(prompt) - len(kept), len(target) - (len(ids) - len(kept)))
        if len(prompt) + len(target) <= max_length:
            assert kept == prompt and learnt[-1] == end
        elif len(target) < max_length:  # the target is complete, and the prompt as long as that allows
            assert learnt == [*target, end] and len(ids) == max_length
            tail = tokens(text.prompt[text.cuttable[1] :]) if text.prompt[text.cuttable[1]] in "\n " else None
            if tail and len(kept) > len(tail) + 4:  # the question's frame outlives its longest field
                assert kept[-len(tail) :] == tail


def test_errors_say_what_cannot_be_encoded():
    texts, pair = make_documents(["the cat sat"]), [Document(" mat", 0, "x:1", "the cat", (0, 7), (" mat",))]

    def encode(texts, **changed):
        return encode_documents(texts, tokenizer(), **({"max_length": 16} | changed))

    with pytest.raises(UserError, match="layout='blocks' cuts text anywhere, so config.data.template"):
        encode(pair, layout="blocks")
    with pytest.raises(UserError, match="so config.data.stride does not go with it"):
        encode(texts, layout="blocks", stride=4)
    with pytest.raises(UserError, match="config.data.stride=16: expected 0 to 15"):
        encode(texts, stride=16)
    tokenizer_without_end = train_tokenizer(["a"], 257, 8)
    tokenizer_without_end.eos_token = None
    with pytest.raises(UserError, match="the tokenizer has no end-of-text token"):
        encode_documents(texts, tokenizer_without_end, max_length=16)


def test_windows_come_from_the_cache_until_something_changes(tmp_path, monkeypatch):
    def encode(texts, **changed):
        return encode_documents(texts, tokenizer(), **({"max_length": 8, "cache_dir": tmp_path} | changed))

    texts = make_documents(["the cat sat on the mat", "abc"])
    first = encode(texts)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise AssertionError("encoded again")

        patch.setattr(documents, "_encode_documents", fail)
        assert encode(texts).record_batch.equals(first.record_batch)
        for changed in ({"max_length": 9}, {"stride": 2}):
            with pytest.raises(AssertionError, match="encoded again"):
                encode(texts, **changed)
        with pytest.raises(AssertionError, match="encoded again"):
            encode(texts[::-1])


@pytest.mark.parametrize("layout", ["documents", "blocks", "pairs"])
def test_windows_do_not_depend_on_how_much_is_encoded_at_once(layout, tmp_path, monkeypatch):
    """One text in a chunk, several, or all of them; joined on disk, or in memory."""
    lines = ["the cat sat on the mat", "abc", "雪 é", "the cat ran and ran and ran", "a", "the mat"] * 5
    texts = make_documents(lines)
    if layout == "pairs":
        texts = [Document(f" {t.text}", t.document, t.origin, "the cat", (0, 7)) for t in texts]
    options = {"max_length": 12, "layout": "blocks" if layout == "blocks" else "documents"}
    windows = encode_documents(texts, tokenizer(), **options)
    for characters in (1, 40, 10**6):
        monkeypatch.setattr(documents, "CHUNK_CHARACTERS", characters)
        cached = {"cache_dir": tmp_path / str(characters)}
        for cache_options in ({}, cached, cached):
            chunked = encode_documents(texts, tokenizer(), **options, **cache_options)
            assert chunked.record_batch.equals(windows.record_batch)
        (cache_file,) = cached["cache_dir"].iterdir()
        assert cache_file.suffix == ".arrow"
