"""Text of every kind is read as documents or pairs, and a mistake in it is named with its place."""

import json

import datasets
import numpy as np
import pandas
import pytest

from jaxft.data.sources import mapped_documents
from jaxft.data.sources.documents import Document, Template, read_documents
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.mapped_documents import MappedDocuments, hash_documents
from jaxft.errors import UserError


def read_texts(path, **options):
    return [example.text for example in read_documents(str(path), **options)]


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_bytes("A:\r\nNo.\r\n \r\nB:\n  Yes\u2028 and\n\n\n<end>\nC".encode())
    return path


def test_a_document_is_a_line_a_file_or_a_block(play):
    assert read_texts(play) == ["A:", "No.", "B:", "  Yes\u2028 and", "<end>", "C"]
    assert read_texts(play, documents="file") == [play.read_bytes().decode()]
    assert read_texts(play, documents="") == ["A:\r\nNo.", "B:\n  Yes\u2028 and", "<end>\nC"]
    assert read_texts(play, documents="<end>") == ["A:\r\nNo.\r\n \r\nB:\n  Yes\u2028 and", "C"]
    examples = list(read_documents(str(play), documents=""))
    assert [e.origin.rpartition(":")[2] for e in examples] == ["1", "4", "8"]
    assert [e.document for e in examples] == [0, 1, 2]


def test_records_of_every_format_give_the_same_documents(tmp_path):
    rows = [{"body": "one, two\nthree", "n": 1}, {"body": "NA", "n": 2}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert read_texts(tmp_path / name, columns={"text": "body"}) == ["one, two\nthree", "NA"]
        pair = list(read_documents(str(tmp_path / name), template="{n}) say: {body}!"))[0]
        assert (pair.prompt, pair.text) == ("1) say:", " one, two\nthree!")
        assert read_texts(f"{tmp_path / name}?n=2-3", columns={"text": "body"}) == ["NA"]  # chosen by a key
    (tmp_path / "b.txt").write_text("x\n")
    with pytest.raises(UserError, match="b.txt.n=2: .n=2 chooses records by a key, which text has none of"):
        read_texts(f"{tmp_path / 'b.txt'}?n=2")
    with pytest.raises(UserError, match="chooses records of a file, .* is a pattern of several"):
        read_texts(f"{tmp_path}/*.jsonl?n=2")


def test_rows_of_the_hub_can_be_filtered_and_sharded(monkeypatch):
    rows = [{"article": "A b.", "title": "A", "lang": "en"}, {"article": "C d.", "title": "C", "lang": "de"}]
    calls = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, **options: calls.append((args, options)) or datasets.Dataset.from_list(rows),
    )
    assert read_texts("hub:org/name:en@v1/train", columns={"text": "article"}) == ["A b.", "C d."]
    assert calls == [(("org/name", "en"), {"revision": "v1", "split": "train"})]
    [pair] = read_documents("hub:org/name/train?lang=de", template="{article}\nTitle: {title}")
    assert (pair.prompt, pair.text, pair.origin) == ("C d.\nTitle:", " C", "hub:org/name/train:2")
    shards = [list(read_documents(f"hub:org/name/train#{n}/2", columns={"text": "title"})) for n in (1, 2)]
    assert [[(text.text, text.origin) for text in shard] for shard in shards] == [
        [("A", "hub:org/name/train:1")],
        [("C", "hub:org/name/train:2")],
    ]
    with pytest.raises(
        UserError, match=r"\?lang=de chooses records, which no shard is made of; write those to files"
    ):
        read_texts("hub:org/name/train?lang=de#2/2")
    with pytest.raises(UserError, match="hub:org/name/train: 2 rows for 3 shards; have fewer"):
        read_texts("hub:org/name/train#1/3")
    with pytest.raises(UserError, match="there is no shard 3 of 2"):
        read_texts("hub:org/name/train#3/2")


def test_a_template_makes_prompt_target_and_references():
    record = {"q": "Who {?}", "context": "Ann left.", "answers": {"text": ["Ann", "she"]}, "x.y": 3}
    document = Template("{context}\nQ{x.y}: {q}\nA: {answers.text}\n").fill(record, 7, "row 1", "d:1")
    assert document == Document(
        " Ann\n", 7, "d:1", "Ann left.\nQ3: Who {?}\nA:", (0, 9), references=(" Ann\n", " she\n")
    )


def test_a_pattern_is_all_files_that_match_in_the_order_of_their_names(tmp_path):
    for name, content in (
        ("b-2.txt", "three\nfour\n"),
        ("b-10.txt", "one\ntwo\n"),
        ("c.jsonl", '{"text": "five"}'),
    ):
        (tmp_path / name).write_text(content)
    documents = list(read_documents(str(tmp_path / "*")))
    assert [text.text for text in documents] == ["one", "two", "three", "four", "five"]
    assert [text.document for text in documents] == [0, 1, 2, 3, 4]
    assert documents[3].origin.endswith("b-2.txt:2")
    with pytest.raises(UserError, match=r"x-\*.txt: no file matches"):
        read_documents(str(tmp_path / "x-*.txt"))


def test_documents_mapped_from_a_file_equal_those_written(monkeypatch):
    pairs = list(read_documents("demo:headline/dev", template="{article}\n{headline}"))
    plain = list(read_documents("demo:text/dev"))[:300]
    monkeypatch.setattr(mapped_documents, "_BATCH", 64)  # several batches
    for documents in (pairs, plain):
        mapped = MappedDocuments.from_documents(documents)
        assert list(mapped) == documents and len(mapped) == len(documents)
        assert mapped[70] == documents[70] and mapped[-1] == documents[-1]
        assert mapped[60:130] == documents[60:130]
        assert mapped.document_ids.tolist() == [text.document for text in documents]
        is_odd = np.arange(len(documents)) % 2 == 1
        assert list(mapped.select(is_odd)) == documents[1::2]
        assert mapped.select(is_odd)[3:5] == documents[7:11:2]
        assert np.isin(hash_documents(mapped), hash_documents(documents[:40])).sum() == 40
    monkeypatch.setattr(mapped_documents.tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(UserError, match="/no/such/folder: temporary files cannot be written .* TMPDIR"):
        MappedDocuments.from_documents(plain)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("gone.txt", None, {}, "gone.txt: no such file"),
        ("a.txt", " \n\n", {}, "a.txt: empty, it holds no text"),
        ("a.txt", b"a\n\xff", {}, "a.txt, line 2, byte 1 of the line: 0xff is not UTF-8"),
        ("a.txt", "x", {"template": "{a}{b}"}, "plain text, but config.data.template asks for records"),
        ("a.txt", "x", {"format": FileFormat("conll")}, "format='conll' is not for documents; expected auto, text"),
        ("a.txt", "x", {"columns": {"tokens": "t"}}, r"config.data.columns: \['tokens'\] unknown for text"),
        ("a.jsonl", '{"a": "x"}', {}, r"a.jsonl, line 1: no key 'text' in \['a'\]; name the key"),
        ("a.jsonl", '{"text": null}', {}, "line 1, key 'text': null where a string was expected; leave out"),
        ("a.jsonl", '{"a": "x"}', {"template": "{a}"}, "template='{a}': expected at least two names in braces"),
        ("a.jsonl", '{"a": "x"}', {"template": "{a} {b}"}, r"line 1: no key 'b' in \['a'\]; config.data.templ"),
        ("a.jsonl", '{"a": ["x"], "b": "y"}', {"template": "{a} {b}"}, "key 'a': a list where a string"),
        ("a.jsonl", '{"a": "x", "b": true}', {"template": "{a} {b}"}, "key 'b': a boolean where a string"),
        ("a.jsonl", '{"a": "x", "b": []}', {"template": "{a} {b}"}, "key 'b': a list where a string"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_texts(tmp_path / name, **options)


def test_an_unknown_corpus_is_named():
    with pytest.raises(UserError, match="demo:ner/train: no such corpus of text; expected demo:text/train"):
        read_documents("demo:ner/train")
