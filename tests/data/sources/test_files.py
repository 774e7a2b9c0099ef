"""Patterns of files mean the same to every reader, and files are dealt evenly to shards."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources import files
from jaxft.data.sources.documents import read_documents
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, size in {"a-1": 50, "a-2": 30, "a-3": 20, "a-4": 10, "a-10": 5, "b": 9}.items():
        (tmp_path / f"{name}.txt").write_text("x" * size)
    (tmp_path / "a-5.txt").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a-*.txt", "a-1 a-10 a-2 a-3 a-4"),
        ("a-?.txt", "a-1 a-2 a-3 a-4"),
        ("a-*.txt#1/2", "a-1 a-4"),
        ("a-*.txt#2/2", "a-10 a-2 a-3"),
        ("b.txt#1/1", "b"),
        ("a-[12].txt", None),
        ("b.txt?path=a/*", None),
        ("b.txt", None),
        ("c.txt", None),
        ("c.jsonl?fold=1", None),
        ("demo:ner/train", None),
        ("hub:org/name/train[:10%]", None),
        ("hub:org/name/train#1/2", None),
        ("-", None),
    ],
)
def test_a_pattern_means_the_files_that_match(folder, source, expected):
    assert files.find_files(source) == (expected and [f"{name}.txt" for name in expected.split()])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "c-*.txt",
            r"c-\*.txt: no file matches \(in .*\); expected a pattern such as part-\*.txt, in which only",
        ),
        (
            "demo:ner/train#1/2",
            r"demo:ner/train: no file matches .*, or hub:NAME/SPLIT; only these have shards$",
        ),
        ("a-*.txt#3/2", r"there is no shard 3 of 2; expected 1 to 2"),
        ("a-*.txt#1/6", r"5 files for 6 shards; a shard is one file or more: split the data into more files"),
        ("b.txt#1/2", r"b.txt: 1 file for 2 shards"),
        (".#1/2", r"\.: a folder; to deal its files to shards, give a pattern such as \./\*.txt"),
        (
            "b.txt?x=1#1/2",
            r"b.txt\?x=1: \?x=1 chooses records, which no shard is made of; write those to files",
        ),
        ("a-[12].txt#1/1", r"a-\[12\].txt: no file matches"),
        ("a-*.txt?fold=1", r"\?fold=1 chooses records of a file, a-\*.txt is a pattern of several"),
    ],
)
def test_patterns_without_a_meaning_are_named(folder, source, message):
    with pytest.raises(UserError, match=message):
        files.find_files(source)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 30))
def test_files_are_dealt_evenly_each_once(sizes, count):
    names = [f"{index:02}" for index in range(len(sizes))]
    shards = files.deal_files(names, sizes, count)
    assert sorted(itertools.chain(*shards)) == names and len(shards) == count
    assert all(shards) or len(names) < count
    size_of = dict(zip(names, sizes, strict=True))
    shard_sizes = [sum(size_of[name] for name in shard) for shard in shards]
    assert max(shard_sizes) - min(shard_sizes) <= max(sizes)
    assert files.deal_files(names[::-1], sizes[::-1], count) == shards


def test_every_reader_takes_a_pattern(tmp_path):
    """Files come in the order of their names, and the numbers of documents go on from file to file."""
    for index in range(3):
        (tmp_path / f"{index}.conll").write_text(
            f"-DOCSTART- O\n\nw{index} O\n\n-DOCSTART- O\n\nv{index} O\n"
        )
        (tmp_path / f"{index}.jsonl").write_text(
            f'{{"text": "t{index}", "label": "a", "question": "q{index}", "context": "c", "answers": []}}\n'
        )
    sentences = list(read_sentences(f"{tmp_path}/*.conll"))
    assert [s.words[0] for s in sentences] == ["w0", "v0", "w1", "v1", "w2", "v2"]
    assert len({s.document for s in sentences}) == 6 and sentences[2].origin == f"{tmp_path}/1.conll:3"
    records = f"{tmp_path}/*.jsonl"
    assert [t.text for t in read_labelled_texts(records, columns=TextColumns())] == ["t0", "t1", "t2"]
    assert [q.question for q in read_questions(f"{records}#2/3")] == ["q1"]
    assert [(t.text, t.document) for t in read_documents(records)] == [("t0", 0), ("t1", 1), ("t2", 2)]
    (tmp_path / "1.conll").write_text("")
    with pytest.raises(UserError, match="1.conll: empty, it holds no sentence"):
        list(read_sentences(f"{tmp_path}/*.conll"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_line_is_refused_with_its_place_and_costs_only_itself(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(f"one\n{'x' * 1_000_000}\ntwo\n{'é' * 40}".encode(encoding))
    with pytest.raises(UserError, match="line 2: the line is longer than 64 bytes.*config.data.max_text"):
        list(files.read_lines(str(path), encoding, max_bytes=64))
    lines = list(files.read_lines(str(path), encoding, keeps_errors=True, max_bytes=64))
    assert [number for number, line in lines if isinstance(line, UserError)] == [2, 4]
    assert [line for _, line in lines[::2]] == ["one\n", "two\n"]
    assert max(map(len, files.read_raw_lines(str(path), encoding, max_bytes=64))) < 1 << 18


@pytest.mark.parametrize(
    ("name", "content", "read", "place"),
    [
        ("a.conll", "a\tO\n\n" + "word\tO\n" * 40, read_sentences, "line 3: the sentence that begins there"),
        (
            "a.jsonl",
            json.dumps({"tokens": ["a"] * 40, "tags": ["O"] * 40}),
            read_sentences,
            "line 1: the line",
        ),
        ("a.csv", 'text,label\na,b\n"' + "word\n" * 40 + '",b\n', read_labelled_texts, "line 3 to 22"),
        (
            "a.csv",
            'text,label\na,b\n"never closed\n' + "word,b\n" * 40,
            read_labelled_texts,
            "quote not closed",
        ),
        ("a.txt", "word\n" * 40, read_documents, "line 1: the document that begins there"),
    ],
)
def test_no_reader_takes_more_than_max_text(tmp_path, name, content, read, place):
    (tmp_path / name).write_text(content)
    options = {read_labelled_texts: {"columns": TextColumns()}, read_documents: {"documents": "file"}}
    with pytest.raises(UserError, match=f"{place}.* longer than 100 bytes"):
        list(read(str(tmp_path / name), format=FileFormat(max_text=100), **options.get(read, {})))


def test_halves_of_surrogate_pairs_that_an_encoding_spells_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\\ud800\n")
    with pytest.raises(UserError, match="line 2: half a surrogate pair in unicode_escape"):
        list(files.read_lines(str(tmp_path / "a.txt"), "unicode_escape"))
