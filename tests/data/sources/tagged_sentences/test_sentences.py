"""Sentences are the same from every format and the hub, and bad input is named with its place."""

import io
import itertools
import json
import subprocess
import sys

import datasets
import pytest

from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError
from tests.data.sources.conftest import read_list, word_tag_pairs


def test_records_agree_between_formats(write_source, tmp_path):
    records = [
        {"tokens": ["NA", "a b", 'say "x, y"'], "tags": ["B-X", "O", "I-X"]},
        {"tokens": ["null", "\xa0"], "tags": ["O", "O"]},
    ]
    expected = [list(zip(r["tokens"], r["tags"], strict=True)) for r in records]
    names = ["O", "B-X", "I-X"]
    schema = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    coded = [{"tokens": r["tokens"], "ner_tags": [names.index(t) for t in r["tags"]]} for r in records]
    datasets.Dataset.from_list(coded, features=schema).to_parquet(str(tmp_path / "data.parquet"))
    datasets.Dataset.from_list([{k: json.dumps(v) for k, v in r.items()} for r in records]).to_csv(
        str(tmp_path / "data.csv"), index=False
    )
    for path in (
        write_source(records, "data.jsonl"),
        str(tmp_path / "data.csv"),
        str(tmp_path / "data.parquet"),
    ):
        sentences = read_list(path)
        assert word_tag_pairs(sentences) == expected, path
        assert [s.document for s in sentences] == [0, 1]
        assert read_list(path, tagged=False)[0].tags is None
    assert read_list(str(tmp_path / "data.csv"))[1].origin.endswith("data.csv:3")


def test_csv_holds_words_divided_by_spaces_or_text(write_source):
    path = write_source('words,labels\n"[ EU rejects ]",O B-ORG O O\n', "data.csv")
    columns = {"tokens": "words", "tags": "labels"}
    assert word_tag_pairs(read_list(path, columns=columns)) == [
        [("[", "O"), ("EU", "B-ORG"), ("rejects", "O"), ("]", "O")]
    ]
    path = write_source(
        'text,spans\n"In\nParis","[{""start"": 3, ""end"": 8, ""label"": ""LOC""}]"\n', "data.csv"
    )
    assert word_tag_pairs(read_list(path)) == [[("In", "O"), ("Paris", "B-LOC")]]


def test_empty_records_keep_predictions_aligned(write_source):
    path = write_source(
        [{"text": "a", "spans": []}, {"text": " ", "spans": []}, {"text": "b", "spans": []}], "data.jsonl"
    )
    assert [s.words for s in read_list(path)] == [["a"], ["b"]]
    assert [s.words for s in read_list(path, tagged=False)] == [["a"], [], ["b"]]
    assert [s.words for s in read_list(write_source("a b\n\nc\n", "data.txt"), tagged=False)] == [
        ["a", "b"],
        [],
        ["c"],
    ]


def test_the_hub_names_class_labels(monkeypatch):
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    dataset = datasets.Dataset.from_list([{"tokens": ["Ann", "ran"], "ner_tags": [1, 0]}], features=features)
    calls = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or dataset
    )
    assert word_tag_pairs(read_list("hub:org/name:en@refs/convert/parquet/train")) == [
        [("Ann", "B-PER"), ("ran", "O")]
    ]
    assert calls == [(("org/name", "en"), {"revision": "refs/convert/parquet", "split": "train"})]


def test_an_unreachable_hub_says_how_to_go_on():
    # In its own process, as the libraries read the variable when they are imported.
    code = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "from jaxft.data.sources.tagged_sentences.sentences import read_sentences\n"
        "from jaxft.errors import exit_on_user_error\n"
        "with exit_on_user_error(): read_sentences('hub:no-such/dataset/train')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: hub:no-such/dataset/train: the hub cannot be reached" in done.stderr
    assert "to go on offline" in done.stderr and "demo:ner/train" in done.stderr and "HF_HOME" in done.stderr


def test_a_hub_dataset_that_does_not_load_is_named(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("Dataset scripts are no longer supported\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError, match=r"cannot be loaded \(Dataset scripts .* supported\).*refs/convert/parquet"
    ):
        read_sentences("hub:old/train")
    with pytest.raises(UserError, match="no split is named"):
        read_sentences("hub:org/name")


def test_stdin_is_streamed(monkeypatch):
    class Endless(io.RawIOBase):
        lines = itertools.cycle([b"word\tO\n", b"\n"])

        def readline(self, size):
            return next(self.lines)

        def peek(self, size):
            return b"word\tO\n\nword"

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Endless()}))
    first = list(itertools.islice(read_sentences("-"), 3))
    assert [s.origin for s in first] == ["<stdin>:1", "<stdin>:3", "<stdin>:5"]
    assert next(read_sentences("-", tagged=False)).words == ["word"]
    text = itertools.islice(read_sentences("-", tagged=False, format=FileFormat("text")), 2)
    assert sorted(sentence.text for sentence in text) == ["", "word\tO"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "", "a.conll: empty, it holds no sentence"),
        ("a.conll", "\n\t\n# only a comment\n", "a.conll: empty"),
        ("a.conll", "a O\nb\n", r"a.conll, line 2: 1 column, at least 2 expected, in 'b'"),
        ("a.conll", "#tag\nb O\n", r"line 1: 1 column, at least 2"),
        ("a.conll", "a O\nNew York O\n", r"line 2: 3 columns, where the sentence .* line 1 has 2"),
        ("a.conll", "a\tO\t\n", r"line 1: the tag is empty in column -1"),
        (
            "a.conll",
            b"a O\n\nb\xe9 O\n",
            r"a.conll, line 3, byte 2 of the line: 0xe9 is not UTF-8; set config.data.encoding",
        ),
        ("a.conll", "a O\n".encode("utf-16") + b"b", "a.conll, line 2: 0x62 is not utf-16"),
        ("a.conll", b"\x1f\x8b\x08\x00", r"a.conll: compressed with gzip; unpack it with `gunzip`"),
        ("a.jsonl", "", "a.jsonl: empty"),
        ("a.jsonl", '{"tokens": []}\n{"tokens": [}', r"a.jsonl, line 1: no tags in keys \['tokens'\]"),
        ("a.jsonl", '\n{"tokens": [}', r"a.jsonl, line 2, column 13: not valid JSON"),
        ("a.jsonl", "[{\n", r"line 2, column \d+: not valid JSON.*config.data.format=jsonl"),
        ("a.jsonl", "[[1]]\n[[2]]", r"line 1: a list where an object was expected"),
        ("a.jsonl", "[" * 100_000, r"a.jsonl: JSON that cannot be read"),
        ("a.jsonl", [{"words": ["a"]}], r"line 1: no tokens \(or text\) in keys \['words'\]"),
        ("a.jsonl", [{"text": "a"}], r"line 1: no spans in keys \['text'\]"),
        ("a.jsonl", [{"tokens": "a", "tags": ["O"]}], "key 'tokens': a string where a list"),
        ("a.jsonl", [{"tokens": ["a", 1], "tags": ["O"]}], "key 'tokens', item 1: a number where a string"),
        ("a.jsonl", [{"tokens": ["\ud83d"], "tags": ["O"]}], "key 'tokens', item 0: half a surrogate"),
        ("a.jsonl", [{"tokens": ["a", "b"], "tags": ["O"]}], "2 items in 'tokens' but 1 in 'tags'"),
        ("a.jsonl", [{"tokens": ["a"], "ner_tags": [1]}], "key 'ner_tags': tags are numbers"),
        ("a.jsonl", [{"text": "a", "spans": [{"start": 0}]}], "key 'spans', item 0: .* is not a span"),
        (
            "a.jsonl",
            [{"text": "a", "spans": [{"start": 0, "end": 2, "label": "X"}]}],
            r"line 1: span 0\.\.2 \(X\) does not lie in the text of 1 characters",
        ),
        (
            "a.jsonl",
            [{"text": "abc", "spans": [{"start": s, "end": s + 2, "label": "X"} for s in (0, 1)]}],
            r"spans 0\.\.2 \(X\) and 1\.\.3 \(X\) overlap",
        ),
        ("a.jsonl", [{"text": "a b", "spans": [{"start": 1, "end": 2, "label": "X"}]}], "whitespace only"),
        ("a.csv", "tokens,tags\n", "a.csv: empty"),
        ("a.csv", "tokens,tags\na,b,O O\n", "a.csv, line 2: 3 fields where the header has 2"),
        (
            "a.csv",
            "tokens,tags\nx,O\n\"['a', 'b']\",O O\n",
            "a.csv, line 3, key 'tokens': a list that is not JSON",
        ),
        ("a.csv", 'tokens,tags\n"a,O\n', "a.csv, line 2: not valid CSV"),
        ("a.parquet", "no", "a.parquet: not a Parquet file"),
    ],
)
def test_bad_files_are_named_with_their_place(write_source, name, content, message):
    path = write_source(content, name)
    with pytest.raises(UserError, match=message):
        read_list(path)


def test_bad_sources_are_named(tmp_path, write_source):
    missing = str(tmp_path / "none.conll")
    with pytest.raises(UserError, match="none.conll: no such file"):
        read_sentences(missing)  # at once, not at the first sentence
    with pytest.raises(UserError, match="a folder, where a data file"):
        read_sentences(str(tmp_path))
    with pytest.raises(UserError, match="expected demo:ner/train"):
        read_sentences("demo:ner")
    with pytest.raises(UserError, match="neither its suffix nor its content tells its format"):
        read_sentences(write_source("a", "a.xyz"), tagged=False)
    with pytest.raises(
        UserError, match="config.data.format='xml' is not for sentences; expected auto, conll"
    ):
        read_sentences(missing, format=FileFormat("xml"))
    with pytest.raises(UserError, match=r"columns: \['word'\] unknown"):
        read_sentences(missing, columns={"word": "w"})
    with pytest.raises(UserError, match="plain text has no tags"):
        read_sentences(write_source("a", "a.txt"), format=FileFormat("text"))
    with pytest.raises(UserError, match="Parquet cannot be read from a pipe"):
        read_sentences("-", format=FileFormat("parquet"))
