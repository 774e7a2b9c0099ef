"""No reader, of any format, yields an example with a value that the program cannot hold, whichever field it is in."""

import copy
import csv
import dataclasses
import io
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxft.data.sources import examples, formats
from jaxft.data.sources.annotation_tools.tools import TOOLS
from jaxft.data.sources.documents import read_documents
from jaxft.data.sources.formats import (
    AUTO,
    DOCUMENTS,
    IMAGES,
    QUESTIONS,
    SENTENCES,
    TEXTS,
    ExampleKind,
    FileFormat,
)
from jaxft.data.sources.images.reading import ImageColumns, read_images
from jaxft.data.sources.labelled_texts import LabelledText, TextColumns, read_labelled_texts
from jaxft.data.sources.labels import MULTI, NUMBER, LabelRules
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.records import hub, in_memory
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError

MAX_TEXT = 2000
DEEP = "nested 10,000 deep"  # stands for a value that Python cannot write
HOSTILE = ["\ud800", "a\x00", float("nan"), float("inf"), int("9" * 400), "9" * 4301, DEEP, "é" * MAX_TEXT]

ANSWER = {"text": "1874", "answer_start": 8}
QUESTION = {
    "id": "q1",
    "question": "When?",
    "context": "Burnt in 1874",
    "answers": [{"text": "in", "answer_start": 6}],
}
SPAN = {"start": 0, "end": 4, "label": "LOC"}


def read_classes(path, format, **options):
    return read_labelled_texts(path, format=format, columns=TextColumns(**options))


def read_one_hot(path, format):
    rules = LabelRules(MULTI)
    return read_labelled_texts(path, format=format, columns=TextColumns(label="sport,arts"), rules=rules)


def read_numbers(path, format):
    return read_labelled_texts(path, format=format, columns=TextColumns(), rules=LabelRules(NUMBER))


def read_pairs(path, format):
    return read_documents(path, format=format, template="{a.b} {c}: {d}")


def read_photos(path, format, **options):
    return read_images(path, format=format, columns=ImageColumns(**options))


def read_untagged(path, format):
    return read_sentences(path, format=format, tagged=False)


# Kind -> readers, each with a record that it can read.
RECORDS = {
    SENTENCES: [
        (read_sentences, {"tokens": ["Rome", "sleeps"], "tags": ["B-LOC", "O"]}),
        (read_sentences, {"text": "Rome sleeps", "spans": [SPAN]}),
        (read_sentences, {"text": "Rome sleeps", "spans": [[0, 4, "LOC"]]}),
    ],
    TEXTS: [
        (read_classes, {"text": "Rome sleeps", "label": "sport"}),
        (read_numbers, {"text": "Rome sleeps", "label": 0.5}),
        (read_one_hot, {"text": "Rome sleeps", "sport": 1, "arts": 0}),
    ],
    QUESTIONS: [(read_questions, QUESTION)],
    IMAGES: [(read_photos, {"image": "rome.png", "label": "city"})],
    DOCUMENTS: [
        (read_documents, {"text": "Rome sleeps"}),
        (read_pairs, {"a": {"b": "Rome"}, "c": 1, "d": ["sleeps", "naps"]}),
    ],
}
# Annotation tools, by name.
TOOL_RECORDS = {
    "Label Studio": (read_sentences, {
        "id": 1,
        "data": {"text": "Rome sleeps"},
        "annotations": [{"result": [{
            "type": "labels", "from_name": "label", "to_name": "text",
            "value": {"start": 0, "end": 4, "text": "Rome", "labels": ["LOC"]},
        }]}],
    }),
    "Prodigy": (read_sentences, {"text": "Rome sleeps", "_task_hash": 1, "answer": "accept", "spans": [SPAN]}),
    "spaCy": (read_sentences, ["Rome sleeps", {"entities": [[0, 4, "LOC"]]}]),
    "doccano": (read_sentences, {"id": 1, "text": "Rome sleeps", "label": [[0, 4, "LOC"]]}),
    "CLUENER": (read_sentences, {"text": "Rome sleeps", "label": {"LOC": {"Rome": [[0, 3]]}}}),
    "questions grouped by context, as SQuAD and simpletransformers have them": (
        read_questions, {"context": QUESTION["context"], "qas": [QUESTION]},
    ),
}  # fmt: skip
# (kind, format) -> a reader, and a file with a mark for each field.
FILES = {
    (SENTENCES, "conll"): (read_sentences, "-DOCSTART- O\n\nRome\tNN\t<B-LOC>\n<sleeps>\tVB\tO\n"),
    (SENTENCES, "conllu"): (read_sentences, "1\t<Rome>\t_\t<NOUN>\t_\t_\t0\t_\t_\t_\n"),
    (SENTENCES, "text"): (read_untagged, "Rome <sleeps>\n"),
    (TEXTS, "text"): (lambda path, format: read_classes(path, format, label=None), "Rome <sleeps>\n"),
    (IMAGES, "text"): (lambda path, format: read_photos(path, format, label=None), "rome <sleeps>.png\n"),
    (DOCUMENTS, "text"): (read_documents, "Rome <sleeps>\n"),
}


def dump_json(value) -> str:
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 10_000 + "]" * 10_000)


def dump_table(record, format) -> str:
    cells = [value if isinstance(value, str) else dump_json(value) for value in record.values()]
    if format == "tsv":
        return "\t".join(record) + "\n" + "\t".join(cells) + "\n"
    file = io.StringIO()
    csv.writer(file).writerows([record, cells])
    return file.getvalue()


def write_parquet(path, records) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)


class Rows(list):
    """Rows of a dataset as the hub's library has them."""

    features: dict = {}

    def select(self, indices):
        return [self[index] for index in indices]


def list_variants(value):
    """Yields copies of a record in each of which one value, or one key, is hostile."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for inner in list_variants(value[key]):
                variant = copy.copy(value)
                variant[key] = inner
                yield variant
    yield from HOSTILE


def write_source(format, record, folder, monkeypatch):
    """Writes a record in a format and returns its source; None for a value that the format cannot hold."""
    path = folder / f"data.{format}"
    try:
        match format:
            case "hub":
                monkeypatch.setattr(hub, "_load", lambda *_: Rows([record]))
                return "hub:data/train"
            case "records":
                records = InMemoryRecords("train", [record])
                monkeypatch.setattr(in_memory, "_KEPT", {records.address: records})
                return records.address
            case "parquet":
                write_parquet(path, [record])
            case "jsonl":
                path.write_text(dump_json(record) + "\n")
            case "json":
                path.write_text(dump_json([record]))
            case "csv" | "tsv" if isinstance(record, dict):
                path.write_text(dump_table(record, format))
            case "squad":
                paragraph = {"context": record["context"], "qas": [record]}
                path.write_text(dump_json({"data": [{"paragraphs": [paragraph]}]}))
            case "csv" | "tsv":
                return None
            case _:
                raise NotImplementedError(f"the format {format} has no sample here")
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, AttributeError, UserError):
        return None  # no Arrow table holds it, or no record in memory
    return str(path)


def assert_read_or_refused(read, source, name) -> bool:
    """Reads the examples, which hold nothing hostile; returns False if they are refused, with the place."""
    try:
        format = FileFormat(AUTO if name == "records" else name, max_text=MAX_TEXT)
        read_examples = list(read(source, format=format))
    except UserError as error:
        place = "train" if name == "records" else source.removesuffix(".ann")
        assert place in str(error)
        return False
    for example in read_examples:
        assert_harmless(dataclasses.asdict(example))
    return True


def assert_harmless(value, key="") -> None:
    if isinstance(value, range):  # the numbers of lines
        return
    json.dumps(value, allow_nan=False, default=list)
    if isinstance(value, dict):
        for name, item in value.items():
            assert_harmless(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_harmless(item, key)
    elif isinstance(value, str):
        assert len(value.encode()) <= MAX_TEXT
        if key in ("tags", "label", "label_names"):
            assert len(value) <= 202 and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def test_every_kind_and_tool_is_tried():
    assert set(RECORDS) == {value for value in vars(formats).values() if isinstance(value, ExampleKind)}
    assert set(TOOL_RECORDS) == {tool.name for tool in TOOLS}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in RECORDS for name in (*kind.formats[1:], "records")],
    ids=lambda value: getattr(value, "noun", value),
)
def test_no_format_lets_a_hostile_value_in(kind, name, tmp_path, monkeypatch):
    refused = 0
    if (kind, name) in FILES:
        read, content = FILES[kind, name]
        start, *fields = content.split("<")
        for index in range(len(fields)):
            for value in HOSTILE:
                pieces = [f"{v if n == index else f.partition('>')[0]}{f.partition('>')[2]}"
                          for n, f in enumerate(fields) for v in [str(value)]]  # fmt: skip
                path = tmp_path / f"data.{name}"
                path.write_bytes((start + "".join(pieces)).encode("utf-8", "surrogatepass"))
                refused += not assert_read_or_refused(read, str(path), name)
        assert refused >= 2 * len(fields)  # half a surrogate pair, and a long text
        return
    for read, record in RECORDS[kind]:
        source = write_source(name, record, tmp_path, monkeypatch)
        nests = any(isinstance(value, dict) for value in record.values())
        if source is not None:
            assert assert_read_or_refused(read, source, name) or (name in ("csv", "tsv") and nests)
        for variant in list_variants(record):
            if (source := write_source(name, variant, tmp_path, monkeypatch)) is not None:
                refused += not assert_read_or_refused(read, source, name)
    assert refused > 3 * len(RECORDS[kind])


@pytest.mark.parametrize("name", TOOL_RECORDS)
def test_no_annotation_tool_lets_a_hostile_value_in(name, tmp_path, monkeypatch):
    read, record = TOOL_RECORDS[name]
    assert assert_read_or_refused(read, write_source("jsonl", record, tmp_path, monkeypatch), "jsonl")
    for variant in list_variants(record):
        assert_read_or_refused(read, write_source("jsonl", variant, tmp_path, monkeypatch), "jsonl")


@pytest.mark.parametrize("value", [str(value) for value in HOSTILE])
def test_no_folder_lets_a_hostile_value_in(value, tmp_path):
    """brat's annotations, and a folder for each label."""
    content = value.encode("utf-8", "surrogatepass")
    for number, (text, label, end) in enumerate([
        (b"Rome", b"LOC", b"4"), (content, b"LOC", b"4"), (b"Rome", content, b"4"), (b"Rome", b"LOC", content),
    ]):  # fmt: skip
        (tmp_path / f"{number}.txt").write_bytes(text + b" sleeps\n")
        (tmp_path / f"{number}.ann").write_bytes(b"T1\t" + label + b" 0 " + end + b"\t" + text + b"\n")
        is_read = assert_read_or_refused(read_sentences, str(tmp_path / f"{number}.ann"), AUTO)
        assert is_read or number
    for name, text in (("sport", content), ("arts", b"plain")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.txt").write_bytes(text)
    assert_read_or_refused(read_classes, str(tmp_path / "classes"), AUTO)


def test_a_new_reader_is_held_to_it():
    """All readers yield their examples through `admit_examples`, which knows no field of theirs but the names."""
    example = LabelledText("Rome", None, ("a", "b\n"), "new.xyz:7")
    with pytest.raises(UserError, match="^new.xyz:7, label: the name 'b.n' has the control character"):
        list(examples.admit_examples([example], "new.xyz", "text"))
    with pytest.raises(
        UserError, match="^new.xyz:7, text: the text is longer than 3 bytes.*config.data.max_text"
    ):
        list(examples.admit_examples([dataclasses.replace(example, label="a")], "new.xyz", "text", 3))
