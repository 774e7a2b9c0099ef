"""Text of every kind comes in as documents or pairs, and a mistake in it is told with its place."""

import json

import datasets
import numpy as np
import pandas
import pytest

from jaxft.data.sources import mapped_documents as store
from jaxft.data.sources.dev_split import cut_document
from jaxft.data.sources.documents import Document, Template, read_documents
from jaxft.errors import UserError


def texts(path, **options):
    return [example.text for example in read_documents(str(path), **options)]


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_bytes("A:\r\nNo.\r\n \r\nB:\n  Yes\u2028 and\n\n\n<end>\nC".encode())
    return path


def test_what_a_document_is(play):
    assert texts(play) == ["A:", "No.", "B:", "  Yes\u2028 and", "<end>", "C"]
    assert texts(play, documents="file") == [play.read_bytes().decode()]
    assert texts(play, documents="") == ["A:\r\nNo.", "B:\n  Yes\u2028 and", "<end>\nC"]
    assert texts(play, documents="<end>") == ["A:\r\nNo.\r\n \r\nB:\n  Yes\u2028 and", "C"]
    examples = list(read_documents(str(play), documents=""))
    assert [e.origin.rpartition(":")[2] for e in examples] == ["1", "4", "8"]
    assert [e.document for e in examples] == [0, 1, 2]


def test_records_of_every_format(tmp_path):
    rows = [{"body": "one, two\nthree", "n": 1}, {"body": "NA", "n": 2}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert texts(tmp_path / name, columns={"text": "body"}) == ["one, two\nthree", "NA"]
        pair = list(read_documents(str(tmp_path / name), template="{n}) say: {body}!"))[0]
        assert (pair.prompt, pair.text) == ("1) say:", " one, two\nthree!")
        assert texts(f"{tmp_path / name}?n=2-3", columns={"text": "body"}) == ["NA"]  # chosen by a key
    (tmp_path / "b.txt").write_text("x\n")
    with pytest.raises(
        UserError, match="b.txt.n=2: .n=2 chooses records by a key, which plain text has none of"
    ):
        texts(f"{tmp_path / 'b.txt'}?n=2")
    with pytest.raises(UserError, match="chooses records of a file, .* is a pattern of several"):
        texts(f"{tmp_path}/*.jsonl?n=2")


def test_rows_of_the_hub(monkeypatch):
    rows = [{"article": "A b.", "title": "A", "lang": "en"}, {"article": "C d.", "title": "C", "lang": "de"}]
    calls = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, **options: calls.append((args, options)) or datasets.Dataset.from_list(rows),
    )
    assert texts("hub:org/name:en@v1/train", columns={"text": "article"}) == ["A b.", "C d."]
    assert calls == [(("org/name", "en"), {"revision": "v1", "split": "train"})]
    [pair] = read_documents("hub:org/name/train?lang=de", template="{article}\nTitle: {title}")
    assert (pair.prompt, pair.text, pair.origin) == ("C d.\nTitle:", " C", "hub:org/name/train:2")
    parts = [list(read_documents(f"hub:org/name/train#{n}/2", columns={"text": "title"})) for n in (1, 2)]
    assert [[(text.text, text.origin) for text in part] for part in parts] == [
        [("A", "hub:org/name/train:1")],
        [("C", "hub:org/name/train:2")],
    ]
    with pytest.raises(
        UserError, match=r"\?lang=de chooses records, which no part is made of; write those to files"
    ):
        texts("hub:org/name/train?lang=de#2/2")
    with pytest.raises(UserError, match="hub:org/name/train: 2 rows for 3 parts; have fewer"):
        texts("hub:org/name/train#1/3")
    with pytest.raises(UserError, match="there is no part 3 of 2"):
        texts("hub:org/name/train#3/2")


def test_a_template_makes_prompt_target_and_references():
    record = {"q": "Who {?}", "context": "Ann left.", "answers": {"text": ["Ann", "she"]}, "x.y": 3}
    made = Template("{context}\nQ{x.y}: {q}\nA: {answers.text}\n").fill(record, 7, "row 1", "d:1")
    assert made == Document(
        " Ann\n", 7, "d:1", "Ann left.\nQ3: Who {?}\nA:", (0, 9), references=(" Ann\n", " she\n")
    )


def test_the_demo_corpora_are_the_same_everywhere_and_their_splits_apart():
    splits = {name: list(read_documents(f"demo:text/{name}")) for name in ("train", "dev", "test")}
    assert len(splits["train"]) > 800 and not {t.text for t in splits["train"]} & {
        t.text for t in splits["dev"]
    }
    pairs = {
        name: list(read_documents(f"demo:headline/{name}", template="{article}\n{headline}"))
        for name in ("train", "dev", "test")
    }
    targets = {name: {pair.text for pair in found} for name, found in pairs.items()}
    assert [len(found) for found in pairs.values()] == [3000, 200, 200]
    assert not targets["dev"] & (targets["train"] | targets["test"])
    assert pairs["dev"] == list(read_documents("demo:headline/dev", template="{article}\n{headline}"))


def test_a_dev_set_is_split_off(play):
    [whole] = read_documents(str(play), documents="file")
    train, dev = cut_document(whole, 0.3)
    assert train.text + dev.text == whole.text and train.text.endswith("\n")
    with pytest.raises(UserError, match="a single short text: no dev set can be split off"):
        cut_document(Document("x", 0, "x:1"), 0.5)


def test_a_pattern_is_all_files_that_match_in_the_order_of_their_names(tmp_path):
    for name, content in (
        ("b-2.txt", "three\nfour\n"),
        ("b-10.txt", "one\ntwo\n"),
        ("c.jsonl", '{"text": "five"}'),
    ):
        (tmp_path / name).write_text(content)
    found = list(read_documents(str(tmp_path / "*")))
    assert [text.text for text in found] == ["one", "two", "three", "four", "five"]
    assert [text.document for text in found] == [0, 1, 2, 3, 4]
    assert found[3].origin.endswith("b-2.txt:2")
    with pytest.raises(UserError, match=r"x-\*.txt: no file matches"):
        read_documents(str(tmp_path / "x-*.txt"))


def test_texts_kept_in_a_file_are_those_that_were_read(monkeypatch):
    pairs = list(read_documents("demo:headline/dev", template="{article}\n{headline}"))
    plain = list(read_documents("demo:text/dev"))[:300]
    monkeypatch.setattr(store, "_BATCH", 64)  # several batches
    for wanted in (pairs, plain):
        kept = store.MappedDocuments.from_documents(wanted)
        assert list(kept) == wanted and len(kept) == len(wanted)
        assert kept[70] == wanted[70] and kept[60:130] == wanted[60:130] and kept[-1] == wanted[-1]
        assert kept.document_ids.tolist() == [text.document for text in wanted]
        odd = np.arange(len(wanted)) % 2 == 1
        assert list(kept.select(odd)) == wanted[1::2] and kept.select(odd)[3:5] == wanted[7:11:2]
        assert np.isin(store.hash_documents(kept), store.hash_documents(wanted[:40])).sum() == 40
    monkeypatch.setattr(store.tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(UserError, match="/no/such/folder: temporary files cannot be written .* TMPDIR"):
        store.MappedDocuments.from_documents(plain)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("gone.txt", None, {}, "gone.txt: no such file"),
        ("a.txt", " \n\n", {}, "a.txt: empty, it holds no text"),
        ("a.txt", b"a\n\xff", {}, "a.txt, line 2, byte 1 of the line: 0xff is not UTF-8"),
        ("a.txt", "x", {"template": "{a}{b}"}, "plain text, but config.data.template asks for records"),
        ("a.txt", "x", {"format": "conll"}, "config.data.format='conll': for text, expected one of auto, text"),
        ("a.txt", "x", {"columns": {"tokens": "t"}}, r"config.data.columns: \['tokens'\] unknown for text"),
        ("a.jsonl", '{"a": "x"}', {}, r"a.jsonl, line 1: no key 'text' in \['a'\]; name the key"),
        ("a.jsonl", '{"text": null}', {}, "line 1, key 'text': a null where a string was expected"),
        ("a.jsonl", '{"a": "x"}', {"template": "{a}"}, "template='{a}': expected at least two names in braces"),
        ("a.jsonl", '{"a": "x"}', {"template": "{a} {b}"}, r"line 1: no key 'b' in \['a'\]; config.data.templ"),
        ("a.jsonl", '{"a": ["x"], "b": "y"}', {"template": "{a} {b}"}, "key 'a': a list where a string"),
        ("a.jsonl", '{"a": "x", "b": true}', {"template": "{a} {b}"}, "key 'b': a boolean where a string"),
        ("a.jsonl", '{"a": "x", "b": []}', {"template": "{a} {b}"}, "key 'b': a list where a string"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        texts(tmp_path / name, **options)


def test_corpora_that_there_are_not():
    with pytest.raises(UserError, match="demo:ner/train: no such corpus of text; expected demo:text/train"):
        read_documents("demo:ner/train")
