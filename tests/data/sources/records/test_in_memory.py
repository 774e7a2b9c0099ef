"""Records that a program holds are read as those of a file: by every reader, with the same checks and messages."""

import dataclasses
import gc
import json

import datasets
import numpy as np
import pandas
import pytest

from jaxft.data.sources.documents import read_documents
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError

RECORDS = [
    {"tokens": ["Ann", "left"], "tags": ["B-PER", "O"], "label": "a", "number": 1, "optional": None},
    {"tokens": ["It", "rained", "."], "tags": ["O", "O", "O"], "label": "b", "number": 0, "optional": "x"},
]
RECORDS = [
    record | {"text": " ".join(record["tokens"]), "question": "Who?", "context": "Ann left", "id": f"q{number}"}
    | {"answers": [{"text": "Ann", "answer_start": 0}]}
    for number, record in enumerate(RECORDS)
]  # fmt: skip
READERS = {
    "sentences": read_sentences,
    "labels": lambda source: read_labelled_texts(source, columns=TextColumns()),
    "numbers": lambda source: read_labelled_texts(source, columns=TextColumns(label="number")),
    "questions": read_questions,
    "documents": read_documents,
    "templates": lambda source: read_documents(source, template="{question}\n{context} {text}"),
    "filtered": lambda source: read_documents(f"{source}?number=1"),
}


@pytest.mark.parametrize("kind", [list, pandas.DataFrame, datasets.Dataset.from_list])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_records_in_memory_as_those_of_a_file(reader, kind, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    kept = InMemoryRecords("train", kind(RECORDS))
    examples = list(READERS[reader](kept.address))
    in_file = list(READERS[reader](str(path)))
    assert [dataclasses.replace(example, origin="") for example in examples] == [
        dataclasses.replace(example, origin="") for example in in_file
    ]
    assert examples[0].origin == "train:1" and kept.address.startswith("records:train/sha256-")


def test_the_address_follows_the_content_and_lasts_as_long_as_the_records():
    first, second = (InMemoryRecords("train", [{"text": text}]) for text in "ab")
    assert first.address != second.address == InMemoryRecords("train", [{"text": "b"}]).address
    assert list(read_documents(first.address))[0].text == "a"
    address = first.address
    del first
    gc.collect()
    with pytest.raises(
        UserError, match=f"^{address}: records that a program gave .* give the same records again"
    ):
        read_documents(address)


def test_values_of_numpy_pandas_and_datasets_are_those_of_json():
    labels = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    rows = {"text": ["x", "y", "z"], "label": [1, 0, 1]}
    for data in (
        [
            {"text": np.str_(text), "label": ("no", "yes")[label]}
            for text, label in zip(*rows.values(), strict=True)
        ],
        pandas.DataFrame(rows | {"label": pandas.Categorical(["yes", "no", "yes"])}, index=[5, 7, 7]),
        datasets.Dataset.from_dict(rows, features=features),
        datasets.Dataset.from_dict(rows, features=features).select([0, 1, 2]),
    ):
        kept = InMemoryRecords("train", data)
        assert [text.label for text in READERS["labels"](kept.address)] == ["yes", "no", "yes"]
    kept = InMemoryRecords("train", [{"tokens": np.array(["a", "b"]), "tags": ("O", "O")}])
    assert list(read_sentences(kept.address))[0].words == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RECORDS[0], "train: data of type dict; expected a path or address, a list of records"),
        ([{"text": {1}}], "train, record 1: not a record that JSON could hold: a set; expected text"),
        (["text"], "^train, record 1: a string where an object was expected"),
        ([], r"records:train/\S+: empty, it holds no text"),
        ([{"text": "x"}], r"^train, record 1: no key 'label' in \['text'\]; name the one that is meant"),
        (pandas.DataFrame({"text": ["x"], "label": [None]}), "record 1, key 'label': null where a label was"),
        (pandas.DataFrame({0: ["x"]}), "train: the column 0 has no text as its name"),
        (pandas.DataFrame([["x", "y"]], columns=["text"] * 2), "train: columns 1 and 2 have the name 'text'"),
        (pandas.DataFrame({"text": ["x", 1]}), "train: the DataFrame cannot be read .* give each column values of"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)), r"train: a DatasetDict of train; .*'train'"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_read(data, message):
    with pytest.raises(UserError, match=message):
        kept = InMemoryRecords("train", data)
        list(READERS["labels"](kept.address))
