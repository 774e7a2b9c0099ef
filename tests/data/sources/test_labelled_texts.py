"""Texts with labels are the same from every format, and bad labels and files are named."""

import json

import datasets
import pytest

from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    read_labelled_texts,
)
from jaxft.data.sources.labels import collect_label_names
from jaxft.data.sources.records import hub
from jaxft.errors import UserError

PAIRS = TextColumns("first", "second", "gold")
ROWS = [
    {"first": 'He said "no", and\nleft', "second": "A, b", "gold": "yes"},
    {"first": "", "second": "NA", "gold": " no "},
]


def write_file(folder, name, content):
    path = folder / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif name.endswith("parquet"):
        content.to_parquet(path)
    else:
        path.write_text(content)
    return str(path)


def read_tuples(source, columns=PAIRS, **options):
    return [(e.text, e.pair, e.label) for e in read_labelled_texts(source, columns=columns, **options)]


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
        hub,
        "read_hub",
        lambda address, split=None: (((f"{address}, row 1", f"{address}:1", r) for r in numbered), schema),
    )
    csv = 'id,first,second,gold\n1,"He said ""no"", and\nleft","A, b",yes\n\n2,,NA, no \n'
    expected = [(ROWS[0]["first"], "A, b", "yes"), ("", "NA", "no")]
    assert read_tuples(write_file(tmp_path, "a.csv", csv)) == expected
    assert read_tuples(write_file(tmp_path, "a.jsonl", ROWS)) == expected
    assert read_tuples(write_file(tmp_path, "a.parquet", table)) == expected
    assert read_tuples("hub:some/set/train") == expected
    # Tab-separated values have no quotes: one of them alone is a character like any other.
    tsv = 'first\tsecond\tgold\nHe said "no\tA, b\tyes\n\tNA\tno\n'
    assert read_tuples(write_file(tmp_path, "a.tsv", tsv)) == [
        ('He said "no', "A, b", "yes"),
        ("", "NA", "no"),
    ]
    origins = [e.origin for e in read_labelled_texts(str(tmp_path / "a.csv"), columns=PAIRS)]
    assert origins == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:5"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("x.csv", "text,stars\na,1\n", TextColumns(),
         r"x.csv, line 2: no key 'label' in \['stars', 'text'\]; .* config.data.label=stars "),
        ("x.csv", "text,label\na,1\n", PAIRS, "no keys 'first' and 'second' and 'gold' in .* config.data.text and "),
        ("x.csv", "text,label\na,1\n", TextColumns(pair="b"), "no key 'b' .* config.data.text_pair "),
        ("x.jsonl", [{"text": None, "label": "a"}], TextColumns(), "line 1, key 'text': null where a string"),
        ("x.csv", "text,label\na,b,1\n", TextColumns(), "3 fields where the header has 2; put a value that holds"),
        ("x.tsv", "text\tlabel\na\n", TextColumns(), "1 fields where the header has 2; single .* divide values"),
        ("x.csv", "text,label\n", TextColumns(), "x.csv: empty, it holds no text"),
        ("x.txt", "a\n", TextColumns(), "x.txt: plain text has no labels; give JSON lines, a table or Parquet"),
        ("x.txt", "a\n", TextColumns(pair="b", label=None), "plain text has no second texts"),
        ("x.conll", "a\n", TextColumns(), "tells its format; set config.data.format to text,"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, name, content, columns, message):
    with pytest.raises(UserError, match=message):
        read_tuples(write_file(tmp_path, name, content), columns=columns)


def test_a_label_number_without_a_name_is_named(tmp_path):
    schema = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x"], "label": [-1]}, features=schema)
    path = write_file(tmp_path, "x.parquet", table)
    with pytest.raises(
        UserError, match=r"row 1, key 'label': label -1 is outside 0..1 \(a, b\); test sets without"
    ):
        read_tuples(path, columns=TextColumns())


def examples(labels):
    return [LabelledText(f"text {i}", None, label, f"x:{i}") for i, label in enumerate(labels)]


def test_names_are_ordered_as_numbers_where_they_are():
    assert collect_label_names(examples(["10", "9", "-1"])) == ["-1", "9", "10"]
    assert collect_label_names(examples(["10", "9", "a"])) == ["10", "9", "a"]
    assert collect_label_names(examples([("b", "c"), ("a",), ()])) == ["a", "b", "c"]
