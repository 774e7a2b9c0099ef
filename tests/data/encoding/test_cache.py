"""The cache file is encoded in chunks, by several processes at once, and is complete or absent."""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.encoding import labelled_texts, questions, sentences
from jaxft.data.encoding.cache import load_or_encode, load_windows, split_by_size
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Answer, Question
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from tests.data.tiny_text import LABELS, tokenizer

# Encodes ten chunks into the file named by its argument, half a second each, and prints which of them it encoded.
ENCODER = """
import functools, json, pathlib, sys, time
import pyarrow as pa
from jaxft.data.encoding.cache import load_or_encode
from jaxft.data.encoding.windows import Windows

encoded = []

def encode(chunk):
    encoded.append(chunk)
    time.sleep(0.5)
    ids = pa.LargeListArray.from_arrays([0, 1, 1 + chunk], pa.array([chunk] * (1 + chunk), pa.int32()))
    yield Windows(pa.RecordBatch.from_pydict({"input_ids": ids, "sentence": pa.array([2 * chunk, 2 * chunk + 1])}))

print(flush=True)
input()
encoders = {range(chunk, chunk + 1): functools.partial(encode, chunk) for chunk in range(10)}
windows = load_or_encode(pathlib.Path(sys.argv[1]), lambda: encoders)
print(json.dumps([encoded, windows.sentence.tolist(), windows.input_ids.tolist(), windows.lengths.tolist()]))
"""


def test_processes_share_the_work_and_map_what_they_made(tmp_path):
    """Each of ten chunks is encoded by one of three processes, and each process encodes several."""
    path = tmp_path / "text.arrow"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    encoded, *columns = zip(*outputs, strict=True)
    assert sorted(sum(encoded, [])) == list(range(10)) and all(len(chunks) > 1 for chunks in encoded)
    ids = [chunk for chunk in range(10) for _ in range(1 + chunk)]
    lengths = [length for chunk in range(10) for length in (1, chunk)]
    assert columns == [([*range(20)],) * 3, (ids,) * 3, (lengths,) * 3]
    assert list(tmp_path.iterdir()) == [path]


def windows_of(count: int, value: int) -> Windows:
    """Returns windows of one token each, which is also the number of their sentence."""
    ids = pa.LargeListArray.from_arrays(np.arange(count + 1), pa.array(np.full(count, value, np.int32)))
    return Windows(
        pa.RecordBatch.from_pydict({"input_ids": ids, "sentence": pa.array([value] * count, pa.int32())})
    )


def test_chunks_that_an_interrupted_process_left_are_not_encoded_again(tmp_path):
    encoded = []

    def encode(index: int, fails_at: int):
        if index == fails_at:
            raise KeyboardInterrupt
        encoded.append(index)
        yield windows_of(2, index)
        yield windows_of(1, index)

    def encoders(fails_at: int):
        return {range(index, index + 1): functools.partial(encode, index, fails_at) for index in range(5)}

    with pytest.raises(KeyboardInterrupt):
        load_or_encode(tmp_path / "text.arrow", lambda: encoders(fails_at=3))
    chunk_file = next((tmp_path / "text.parts").glob("1-2.arrow"))
    chunk_file.write_bytes(chunk_file.read_bytes()[:-1])
    windows = load_or_encode(tmp_path / "text.arrow", lambda: encoders(fails_at=-1))
    assert encoded == [0, 1, 2, 3, 4, 1]  # the damaged one is encoded again
    assert windows.sentence.tolist() == np.repeat(np.arange(5), 3).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["text.arrow"]


@settings(max_examples=150)
@given(st.integers(0, 10**9), st.integers(0, 7), st.booleans())
def test_no_damaged_file_is_trained_on(position, bit, cut):
    """One bit that flips anywhere, or an end that is missing, changes no window: the text is encoded again."""
    expected = encode_sentences(False) if position % 2 else encode_texts()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "text.arrow")
        load_or_encode(path, lambda: {range(1): lambda: [expected]})
        content = bytearray(path.read_bytes())
        position %= len(content)
        if cut:
            del content[position:]
        else:
            content[position] ^= 1 << bit
        path.write_bytes(content)
        windows = load_or_encode(path, lambda: {range(1): lambda: [expected]})
        assert windows.record_batch.equals(expected.record_batch)
        assert load_windows(path).fingerprint == expected.fingerprint  # the file is whole again


def test_a_full_disk_costs_the_cache_only(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxft.data.encoding.cache.os.fsync", full)
    encoders = {range(value, value + 1): lambda value=value: [windows_of(1, value)] for value in range(3)}
    windows = load_or_encode(tmp_path / "text.arrow", lambda: encoders)
    assert windows.sentence.tolist() == [0, 1, 2] and "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_items_are_split_into_ranges_of_about_one_size():
    assert split_by_size([], 5) == [range(0, 0)]
    assert split_by_size([1, 1, 1], 5) == [range(0, 3)]
    assert split_by_size([9, 1, 4, 0, 7, 1], 5) == [range(0, 1), range(1, 3), range(3, 5), range(5, 6)]
    assert split_by_size([5, 5], 5) == [range(0, 1), range(1, 2)]


def encode_sentences(context: bool, **options) -> Windows:
    texts = ["ab cd", "", "ef " * 30, "a", "b c d", "gh"] * 4
    corpus = [Sentence(t.split(), ["O"] * len(t.split()), i // 7, f"x:{i}") for i, t in enumerate(texts)]
    return sentences.encode_sentences(corpus, tokenizer(), LABELS, max_length=12, context=context, **options)


def encode_texts(**options) -> Windows:
    texts = [LabelledText("ab cd " * (i % 9), None, "ef" * (i % 3), f"x:{i}") for i in range(20)]
    labels, is_known = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 5 > 0
    return labelled_texts.encode_labelled_texts(
        texts, labels, is_known, tokenizer(), max_length=16, truncation="windows", **options
    )


def encode_questions(**options) -> Windows:
    examples = [
        Question(str(i), "ab cd", "ef gh " * (i + 1), (Answer("gh", 3),) if i % 3 else (), f"x:{i}")
        for i in range(12)
    ]
    return questions.encode_questions(examples, tokenizer(), max_length=16, **options)


@pytest.mark.parametrize(
    "encode",
    [
        functools.partial(encode_sentences, False),
        functools.partial(encode_sentences, True),
        encode_texts,
        encode_questions,
    ],
)
def test_windows_do_not_depend_on_the_chunks(encode, tmp_path, monkeypatch):
    """All items in one chunk, or one in each; written to the cache, read from it, and without one."""
    windows = encode()
    assert len(windows) > 20
    monkeypatch.setattr(sentences, "_CHUNK_WORDS", 1)
    monkeypatch.setattr(labelled_texts, "CHUNK_CHARACTERS", 1)
    monkeypatch.setattr(questions, "CHUNK_CHARACTERS", 1)
    for options in ({}, {"cache_dir": tmp_path}, {"cache_dir": tmp_path}):
        assert encode(**options).record_batch.equals(windows.record_batch)
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
