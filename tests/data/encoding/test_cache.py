"""Encoded text in a cache file: made in parts, by several processes together, and whole or absent."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from jaxft.data.encoding import labelled_texts
from jaxft.data.encoding import sentences as tokenize
from jaxft.data.encoding.cache import load_or_encode, os, split_by_size
from jaxft.data.encoding.questions import encode_questions
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.questions import Answer, Question
from jaxft.data.sources.sentence import Sentence
from tests.data.tiny_text import LABELS, tokenizer

# Encodes ten parts into the file of its argument, half a second each, and prints which of them it encoded.
ENCODER = """
import functools, json, pathlib, sys, time
import pyarrow as pa
from jaxft.data.encoding.cache import load_or_encode
from jaxft.data.encoding.windows import Windows

encoded = []

def encode(part):
    encoded.append(part)
    time.sleep(0.5)
    ids = pa.LargeListArray.from_arrays([0, 1, 1 + part], pa.array([part] * (1 + part), pa.int32()))
    yield Windows(pa.RecordBatch.from_pydict({"input_ids": ids, "sentence": pa.array([2 * part, 2 * part + 1])}))

print(flush=True)
input()
parts = {range(part, part + 1): functools.partial(encode, part) for part in range(10)}
found = load_or_encode(pathlib.Path(sys.argv[1]), lambda: parts)
print(json.dumps([encoded, found.sentence.tolist(), found.input_ids.tolist(), found.lengths.tolist()]))
"""


def test_processes_share_the_work_and_map_what_they_made(tmp_path):
    """Each of ten parts is encoded by one of three processes, none of which encodes them all."""
    path = tmp_path / "text.arrow"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for one in started:
        one.stdout.readline()
    for one in started:
        one.stdin.write("\n")
        one.stdin.flush()
    encoded, *found = zip(*(json.loads(one.communicate(timeout=60)[0]) for one in started), strict=True)
    assert sorted(sum(encoded, [])) == list(range(10)) and all(len(parts) > 1 for parts in encoded)
    ids = [part for part in range(10) for _ in range(1 + part)]
    lengths = [length for part in range(10) for length in (1, part)]
    assert found == [([*range(20)],) * 3, (ids,) * 3, (lengths,) * 3]
    assert list(tmp_path.iterdir()) == [path]


def numbers(count: int, value: int) -> Windows:
    ids = pa.LargeListArray.from_arrays(np.arange(count + 1), pa.array(np.full(count, value, np.int32)))
    return Windows(
        pa.RecordBatch.from_pydict({"input_ids": ids, "sentence": pa.array([value] * count, pa.int32())})
    )


def test_parts_that_an_interrupted_process_left_are_not_encoded_again(tmp_path):
    encoded = []

    def parts(fails_at: int):
        def part(index: int):
            def encode():
                if index == fails_at:
                    raise KeyboardInterrupt
                encoded.append(index)
                yield numbers(2, index)
                yield numbers(1, index)

            return encode

        return lambda: {range(index, index + 1): part(index) for index in range(5)}

    with pytest.raises(KeyboardInterrupt):
        load_or_encode(tmp_path / "text.arrow", parts(fails_at=3))
    left = next((tmp_path / "text.parts").glob("1-2.arrow"))
    left.write_bytes(left.read_bytes()[:-1])
    found = load_or_encode(tmp_path / "text.arrow", parts(fails_at=-1))
    assert encoded == [0, 1, 2, 3, 4, 1]  # the damaged one again
    assert found.sentence.tolist() == np.repeat(np.arange(5), 3).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["text.arrow"]


def test_a_full_disk_costs_the_cache_only(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    parts = {range(value, value + 1): lambda value=value: [numbers(1, value)] for value in range(3)}
    found = load_or_encode(tmp_path / "text.arrow", lambda: parts)
    assert found.sentence.tolist() == [0, 1, 2] and "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_ranges_of_neighbours():
    assert split_by_size([], 5) == [range(0, 0)]
    assert split_by_size([1, 1, 1], 5) == [range(0, 3)]
    assert split_by_size([9, 1, 4, 0, 7, 1], 5) == [range(0, 1), range(1, 3), range(3, 5), range(5, 6)]
    assert split_by_size([5, 5], 5) == [range(0, 1), range(1, 2)]


def by_words(context: bool, **options) -> Windows:
    texts = ["ab cd", "", "ef " * 30, "a", "b c d", "gh"] * 4
    sentences = [Sentence(t.split(), ["O"] * len(t.split()), i // 7, f"x:{i}") for i, t in enumerate(texts)]
    return tokenize.encode_sentences(
        sentences, tokenizer(), LABELS, max_length=12, context=context, **options
    )


def of_texts(**options) -> Windows:
    texts = [LabelledText("ab cd " * (i % 9), None, "ef" * (i % 3), f"x:{i}") for i in range(20)]
    labels, known = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 5 > 0
    return labelled_texts.encode_labelled_texts(
        texts, labels, known, tokenizer(), max_length=16, truncation="windows", **options
    )


def of_questions(**options) -> Windows:
    asked = [
        Question(str(i), "ab cd", "ef gh " * (i + 1), (Answer("gh", 3),) if i % 3 else (), f"x:{i}")
        for i in range(12)
    ]
    return encode_questions(asked, tokenizer(), max_length=16, **options)


@pytest.mark.parametrize(
    "encode", [lambda **o: by_words(False, **o), lambda **o: by_words(True, **o), of_texts, of_questions]
)
def test_windows_do_not_depend_on_the_parts_that_are_encoded(encode, tmp_path, monkeypatch):
    """As one part, or item by item; cached, from the cache, and without one."""
    whole = encode()
    assert len(whole) > 20
    monkeypatch.setattr(tokenize, "_CHUNK_WORDS", 1)
    monkeypatch.setattr(labelled_texts, "CHUNK_CHARACTERS", 1)
    for options in ({}, {"cache_dir": tmp_path}, {"cache_dir": tmp_path}):
        assert encode(**options).record_batch.equals(whole.record_batch)
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
