"""Texts with labels: sources give the same examples, what is wrong is named, a dev set keeps the shares of labels."""

import json
from collections import Counter

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.demo import classification, similarity
from jaxft.data.sources import records
from jaxft.data.sources.dev_split import find_text_overlap, split_dev_labelled_texts
from jaxft.data.sources.labelled_texts import (
    MULTI,
    NUMBER,
    SINGLE,
    LabelledText,
    TextColumns,
    collect_label_names,
    read_labelled_texts,
)
from jaxft.errors import UserError

PAIRS = TextColumns("first", "second", "gold")
ROWS = [
    {"first": 'He said "no", and\nleft', "second": "A, b", "gold": "yes"},
    {"first": "", "second": "NA", "gold": " no "},
]


def written(folder, name, content):
    path = folder / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif name.endswith("parquet"):
        content.to_parquet(path)
    else:
        path.write_text(content)
    return str(path)


def found(source, problem=SINGLE, columns=PAIRS, **options):
    return [
        (e.text, e.pair, e.label)
        for e in read_labelled_texts(source, columns=columns, problem=problem, **options)
    ]


def test_every_format_gives_the_same_examples(tmp_path, monkeypatch):
    schema = datasets.Features(
        {
            "first": datasets.Value("string"),
            "second": datasets.Value("string"),
            "gold": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    numbered = [row | {"gold": ["no", "yes"].index(row["gold"].strip())} for row in ROWS]
    table = datasets.Dataset.from_list(numbered, features=schema)
    monkeypatch.setattr(
        records,
        "read_hub",
        lambda address: (((f"{address}, row 1", f"{address}:1", r) for r in numbered), schema),
    )
    csv = 'id,first,second,gold\n1,"He said ""no"", and\nleft","A, b",yes\n\n2,,NA, no \n'
    want = [(ROWS[0]["first"], "A, b", "yes"), ("", "NA", "no")]
    assert found(written(tmp_path, "a.csv", csv)) == want
    assert found(written(tmp_path, "a.jsonl", ROWS)) == want
    assert found(written(tmp_path, "a.parquet", table)) == want
    assert found("hub:some/set/train") == want
    # Tab-separated values have no quotes: one of them alone is a character like any other.
    tsv = 'first\tsecond\tgold\nHe said "no\tA, b\tyes\n\tNA\tno\n'
    assert found(written(tmp_path, "a.tsv", tsv)) == [('He said "no', "A, b", "yes"), ("", "NA", "no")]
    origins = [e.origin for e in read_labelled_texts(str(tmp_path / "a.csv"), columns=PAIRS)]
    assert origins == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:5"]


def test_labels_by_problem(tmp_path):
    def labels(values, problem, **options):
        path = written(tmp_path, "l.jsonl", [{"text": "x", "label": value} for value in values])
        return [e[2] for e in found(path, problem, TextColumns(), **options)]

    assert labels(["a", 3, True, "3"], SINGLE) == ["a", "3", "true", "3"]
    assert labels([["b", 1, "b"], [], "c; a", '["a", "c"]', ""], MULTI, separator=";") == [
        ("b", "1"), (), ("c", "a"), ("a", "c"), ()
    ]  # fmt: skip
    assert labels([1, "2.5", -0.5, "1e3"], NUMBER) == [1.0, 2.5, -0.5, 1000.0]


@pytest.mark.parametrize(
    ("problem", "label", "message"),
    [
        (SINGLE, None, "x.jsonl, line 1, key 'label': null where a label was expected"),
        (SINGLE, "  ", "line 1, key 'label': an empty label; name it, or leave the record out"),
        (SINGLE, 0.5, "the number 0.5 where the name of a label was expected; write whole numbers or names, or set"),
        (SINGLE, ["a"], "a list where one label was expected; set config.model.problem_type='multi_label"),
        (SINGLE, {"a": 1}, "a object where a label was expected"),
        (MULTI, 7, "a number where a list of labels, or a string of them with ',' between, was expected"),
        (MULTI, "['a']", "a list that is not JSON"),
        (NUMBER, "good", "'good' is not a finite number; config.model.problem_type='regression' learns numbers"),
        (NUMBER, True, "a boolean is not a finite number"),
        (NUMBER, "nan", "'nan' is not a finite number"),
    ],
)  # fmt: skip
def test_bad_labels_are_named(tmp_path, problem, label, message):
    path = written(tmp_path, "x.jsonl", [{"text": "x", "label": label}])
    with pytest.raises(UserError) as error:
        found(path, problem, TextColumns())
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("x.csv", "text,stars\na,1\n", TextColumns(),
         r"x.csv, line 2: no key 'label' in \['stars', 'text'\]; name the one that is meant in config.data.label "),
        ("x.csv", "text,label\na,1\n", PAIRS, "no key 'first' .* config.data.text "),
        ("x.csv", "text,label\na,1\n", TextColumns(pair="b"), "no key 'b' .* config.data.text_pair "),
        ("x.jsonl", [{"text": None, "label": "a"}], TextColumns(), "line 1, key 'text': a null where a string"),
        ("x.csv", "text,label\na,b,1\n", TextColumns(), "3 fields where the header has 2; put a field that holds commas"),
        ("x.tsv", "text\tlabel\na\n", TextColumns(), "1 fields where the header has 2; fields are divided by single tabs"),
        ("x.csv", "text,label\n", TextColumns(), "x.csv: empty, it holds no text"),
        ("x.txt", "a\n", TextColumns(), "x.txt: plain text has no labels; give JSON lines, CSV, TSV or Parquet"),
        ("x.txt", "a\n", TextColumns(pair="b", label=None), "plain text has no second texts"),
        ("x.conll", "a\n", TextColumns(), "the suffix does not tell its format; set the format to jsonl, csv, tsv"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, name, content, columns, message):
    with pytest.raises(UserError, match=message):
        found(written(tmp_path, name, content), columns=columns)


def test_a_label_number_without_a_name_is_named(tmp_path):
    schema = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x"], "label": [-1]}, features=schema)
    path = written(tmp_path, "x.parquet", table)
    with pytest.raises(
        UserError, match=r"row 1, key 'label': label -1 is outside 0..1 \(a, b\); test sets without"
    ):
        found(path, columns=TextColumns())


def examples(labels):
    return [LabelledText(f"text {i}", None, label, f"x:{i}") for i, label in enumerate(labels)]


def test_names_are_ordered_as_numbers_where_they_are():
    assert collect_label_names(examples(["10", "9", "-1"])) == ["-1", "9", "10"]
    assert collect_label_names(examples(["10", "9", "a"])) == ["10", "9", "a"]
    assert collect_label_names(examples([("b", "c"), ("a",), ()])) == ["a", "b", "c"]


@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=2, max_size=80), st.floats(0.05, 0.5), st.integers(0, 99)
)
def test_a_dev_set_keeps_shares_and_order_and_leaves_train_every_label(labels, fraction, seed):
    whole = examples(labels)
    train, dev = split_dev_labelled_texts(whole, fraction, seed)
    assert sorted(train + dev, key=whole.index) == whole
    assert train == sorted(train, key=whole.index) and dev == sorted(dev, key=whole.index)
    assert split_dev_labelled_texts(whole, fraction, seed) == (train, dev)
    assert train and dev
    counts, taken = Counter(labels), Counter(e.label for e in dev)
    if max(counts.values()) > 1:
        assert set(e.label for e in train) == set(labels)
        for label, count in counts.items():
            assert abs(taken[label] - fraction * count * (count > 1)) < 2


def test_other_labels_are_split_at_random():
    for values in ([("a",), ()] * 50, [0.5, 1.5] * 50):
        train, dev = split_dev_labelled_texts(examples(values), 0.2, 1)
        assert len(dev) == 20 and split_dev_labelled_texts(examples(values), 0.2, 2)[1] != dev
    with pytest.raises(UserError, match="1 example in the training data: none can be split off"):
        split_dev_labelled_texts(examples(["a"]), 0.1, 0)


def test_generated_pairs_are_as_alike_as_what_they_ask_and_name():
    columns = TextColumns("text", "text_pair", "label")
    splits = {
        s: list(read_labelled_texts(f"demo:similarity/{s}", columns=columns, problem=NUMBER))
        for s in similarity.SIZES
    }
    assert {s: len(e) for s, e in splits.items()} == similarity.SIZES
    assert splits["dev"] == list(read_labelled_texts("demo:similarity/dev", columns=columns, problem=NUMBER))
    assert find_text_overlap(splits["train"], splits["dev"] + splits["test"]).sum() == 0
    values = [example.label for example in splits["train"]]
    assert min(values) == 0 and max(values) == 5 and 1.5 < sum(values) / len(values) < 2.5
    alike = {(e.text, e.pair): e.label for e in splits["test"]}
    sent = "The 300 dollars that I sent Anna this morning have not arrived."
    assert alike[sent, "Anna did not get my transfer of 300 dollars."] == 4.33  # two of three in common
    assert alike["Somebody has my card, block it please?", "I lost my card yesterday, please help."] == 3
    blocked = "My PIN was blocked in the airport yesterday."  # another subject, and one of three
    assert alike[blocked, "Why was I charged 20 euros extra yesterday?"] == 0.67
    with pytest.raises(
        UserError, match="demo:similarity/all: no such corpus; expected demo:similarity/train"
    ):
        list(read_labelled_texts("demo:similarity/all", columns=columns, problem=NUMBER))


@pytest.mark.parametrize("name", ["sentiment", "intent"])
def test_generated_corpora_are_the_same_again_and_share_no_text(name):
    splits = {
        s: list(read_labelled_texts(f"demo:{name}/{s}", columns=TextColumns())) for s in classification.SIZES
    }
    assert {s: len(e) for s, e in splits.items()} == classification.SIZES
    assert splits["dev"] == list(read_labelled_texts(f"demo:{name}/dev", columns=TextColumns()))
    assert find_text_overlap(splits["train"], splits["dev"] + splits["test"]).sum() == 0
    assert collect_label_names(splits["train"]) == collect_label_names(splits["test"])
    with pytest.raises(
        UserError, match="demo:x/train: no such corpus of texts with labels; expected demo:sentiment"
    ):
        list(read_labelled_texts("demo:x/train", columns=TextColumns()))
