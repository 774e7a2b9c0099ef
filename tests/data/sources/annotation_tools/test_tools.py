"""Files are read as annotation tools write them, and what is left out of them is said."""

import csv
import io
import itertools
import json
import sys

import pytest

from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import MULTI, NUMBER, LabelRules
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Writes a text, or records as JSON lines, to a file and returns its path."""

    def write_file(content, name="data.jsonl"):
        if not isinstance(content, str):
            content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
        (tmp_path / name).write_text(content, encoding="utf-8")
        return f"{tmp_path}/{name}"

    return write_file


def read_tags(source, **options):
    """Returns (word:tag words of each sentence, lines of the log about the content)."""
    log = []
    sentences = [
        " ".join(f"{word}:{tag}" if tag != "O" else word for word, tag in zip(s.words, s.tags, strict=True))
        for s in read_sentences(source, log=log.append, **options)
    ]
    return sentences, [line.partition(": ")[2] for line in log if "config.data.format" not in line]


def read_labels(source, label="label", problem="single_label_classification"):
    """Returns (text and label of each example, lines of the log about the content)."""
    log = []
    examples = read_labelled_texts(
        source, columns=TextColumns(label=label), rules=LabelRules(problem), log=log.append
    )
    pairs = [(example.text, example.label) for example in examples]
    return pairs, [line.partition(": ")[2] for line in log if "config.data.format" not in line]


ROME = ["Rome:B-LOC sleeps"]

# ------------------------------------------------------------------ doccano


@pytest.mark.parametrize(
    "record",
    [
        {"id": 1, "text": "Rome sleeps", "label": [[0, 4, "LOC"]], "Comments": []},
        {"id": 1, "data": "Rome sleeps", "label": [[0, 4, "LOC"]]},
        {"text": "Rome sleeps", "labels": [[0, 4, "LOC"]]},
        {"id": 1, "text": "Rome sleeps", "cats": ["nap"], "entities": [[0, 4, "LOC"]], "Comments": []},
        {
            "id": 1,
            "text": "Rome sleeps",
            "Comments": [],
            "entities": [{"id": 9, "label": "LOC", "start_offset": 0, "end_offset": 4}],
            "relations": [{"id": 3, "from_id": 9, "to_id": 9, "type": "self"}],
        },
    ],
)
def test_doccano(write, record):
    path = write([record, record | dict.fromkeys(record.keys() & {"label", "labels", "entities"}, [])])
    unread = ["relations between spans are not read (2)"] if "relations" in record else []
    assert read_tags(path) == ([*ROME, "Rome sleeps"], ["records of doccano", *unread])
    assert [s.text for s in read_sentences(path, tagged=False)] == [
        record.get("text")
    ] * 2 or "data" in record


def test_doccano_counts_utf16(write):
    path = write([{"id": 1, "text": "😀😀 Rome sleeps", "label": [[5, 9, "LOC"]], "Comments": []}])
    with pytest.raises(UserError, match=r"line 1: 1 of 1 spans .*: set config.data.offsets=utf16"):
        read_tags(path)
    assert read_tags(path, rules=SpanRules(offsets="utf16"))[0] == ["😀 😀 Rome:B-LOC sleeps"]


def test_doccano_categories(write):
    records = [{"id": n, "text": f"t{n}", "label": ["pos"], "Comments": []} for n in range(2)]
    assert read_labels(write(records)) == ([("t0", "pos"), ("t1", "pos")], [])
    assert read_labels(write(json.dumps(records), "data.json"), problem=MULTI)[0][0] == ("t0", ("pos",))
    records.append({"id": 2, "text": "t2", "label": ["neg", "pos"], "Comments": []})
    with pytest.raises(
        UserError, match="line 3, key 'label': a list of 2 where one label .* set config.model.problem"
    ):
        read_labels(write(records))
    intents = [{"id": 1, "text": "Rome sleeps", "cats": ["nap"], "entities": [[0, 4, "LOC"]], "Comments": []}]
    assert read_labels(write(intents)) == ([("Rome sleeps", "nap")], ["records of doccano"])


# ------------------------------------------------------------------ Label Studio


def region(start, end, text, label, **more):
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {
        "id": "qd1",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": value,
    } | more


def choice(control, *choices):
    return {
        "id": "x",
        "from_name": control,
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [*choices]},
    }


def task(text, *results, **more):
    annotation = {
        "id": 22,
        "completed_by": 1,
        "result": [*results],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-01-30T02:40:43.893565Z",
        "lead_time": 8.65,
        "task": 87,
    }
    return {
        "id": 87,
        "annotations": [annotation | more],
        "file_upload": "a.csv",
        "drafts": [],
        "predictions": [],
        "data": {"text": text},
        "meta": {},
        "created_at": "2024-01-30T02:40:33.867975Z",
        "inner_id": 1,
        "total_annotations": 1,
        "project": 29,
    }


def json_min(text, results, **more):
    return (
        {"text": text, "id": 87}
        | results
        | {"annotator": 1, "annotation_id": 22, "created_at": "2024", "updated_at": "2024", "lead_time": 8.65}
        | more
    )


@pytest.mark.parametrize("indent", [None, 2])
def test_label_studio_regions(write, indent):
    cancelled = task("x y", region(0, 1, "x", "LOC"), was_cancelled=True)
    twice = task("Rome sleeps", region(0, 4, "Rome", "OLD"))
    twice["annotations"].append(
        twice["annotations"][0] | {"created_at": "2025", "result": [region(0, 4, "Rome", "NEW")]}
    )
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    tasks = [task("Rome sleeps", region(0, 4, "Rome", "LOC"), relation), task("none here"), cancelled, twice]
    path = write(json.dumps(tasks, indent=indent), "project-1.json")
    assert read_tags(path) == (
        [*ROME, "none here", "Rome:B-NEW sleeps"],
        [
            "records of Label Studio",
            "not read: 1 results of type relation, 1 tasks without an annotation, "
            "1 older annotations of tasks that have several",
        ],
    )
    assert [s.text for s in read_sentences(path, tagged=False)] == [
        "Rome sleeps",
        "none here",
        "x y",
        "Rome sleeps",
    ]


def test_label_studio_json_min(write):
    records = [
        json_min("Rome sleeps", {"label": [{"start": 0, "end": 4, "text": "Rome", "labels": ["LOC"]}]}),
        json_min("none here", {}),
        json_min("not seen", {}, annotation_id=None),
    ]
    path = write(json.dumps(records), "project-1.json")
    assert read_tags(path) == (
        [*ROME, "none here"],
        ["records of Label Studio", "not read: 1 tasks without an annotation"],
    )


def write_table(write, records, name):
    """Writes a table as Label Studio does: columns in alphabetical order, and JSON in cells."""
    columns = sorted(set().union(*records))
    file = io.StringIO()
    delimiter = "\t" if name.endswith(".tsv") else ","
    writer = csv.DictWriter(
        file, columns, quoting=csv.QUOTE_NONNUMERIC, delimiter=delimiter, lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(
        {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in record.items()}
        for record in records
    )
    return write(file.getvalue(), name)


@pytest.mark.parametrize("name", ["project-1.csv", "project-1.tsv"])
def test_label_studio_tables(write, name):
    records = [
        json_min("Rome sleeps", {"label": [{"start": 0, "end": 4, "text": "Rome", "labels": ["LOC"]}]}),
        json_min("none here", {}),
    ]
    path = write_table(write, records, name)
    assert read_tags(path) == ([*ROME, "none here"], ["records of Label Studio"])
    path = write_table(
        write, [json_min("a", {"mood": "pos"}), json_min("b", {"mood": {"choices": ["x", "y"]}})], name
    )
    assert read_labels(path, "mood", MULTI)[0] == [("a", ("pos",)), ("b", ("x", "y"))]


def test_label_studio_choices(write):
    tasks = [task("a", choice("mood", "pos")), task("b", choice("mood", "neg"))]
    pairs = [("a", "pos"), ("b", "neg")]
    path = write(json.dumps(tasks), "project-1.json")
    assert read_labels(path) == read_labels(path, "mood") == (pairs, ["records of Label Studio"])
    short = [json_min("a", {"mood": "pos"}), json_min("b", {"mood": "neg"})]
    assert read_labels(write(json.dumps(short), "min.json")) == (pairs, ["records of Label Studio"])
    several = [json_min("a", {"mood": {"choices": ["pos", "sad"]}}), json_min("b", {"mood": "neg"})]
    path = write(json.dumps(several), "min.json")
    assert read_labels(path, problem=MULTI)[0] == [("a", ("pos", "sad")), ("b", ("neg",))]
    rating = {"id": "x", "from_name": "stars", "to_name": "text", "type": "rating", "value": {"rating": 4}}
    assert read_labels(write(json.dumps([task("a", rating)]), "stars.json"), problem=NUMBER)[0] == [
        ("a", 4.0)
    ]
    tasks = [task("a", choice("mood", "pos"), choice("topic", "art"))] * 2
    path = write(json.dumps(tasks), "two.json")
    with pytest.raises(
        UserError, match=r"no key 'label' in \['id', 'mood', 'spans', 'text', 'topic'\]; name .*data.label"
    ):
        read_labels(path)
    assert read_labels(path, "topic")[0] == [("a", "art")] * 2


def test_label_studio_texts_with_other_names(write):
    tasks = [task("Rome sleeps", region(0, 4, "Rome", "LOC"))]
    tasks[0]["data"] = {"review": "Rome sleeps", "stars": 4}
    assert read_tags(write(json.dumps(tasks), "a.json"))[0] == ROME
    tasks[0]["data"] = {"review": "Rome sleeps", "author": "me"}
    path = write(json.dumps(tasks), "a.json")
    with pytest.raises(
        UserError, match=r"no tokens \(or text\) in keys \['author', 'id', 'review', .*config.data.columns"
    ):
        read_tags(path)
    assert read_tags(path, columns={"text": "review"})[0] == ROME


def test_label_studio_offsets_of_html_are_refused(write):
    html = region(0, 4, "Rome", "LOC", type="hypertextlabels")
    html["value"] = {
        "start": "/p[1]/text()[1]",
        "end": "/p[1]/text()[1]",
        "startOffset": 0,
        "hypertextlabels": ["LOC"],
    }
    with pytest.raises(
        UserError, match=r"record 1, key 'spans', item 0: .*/p\[1\].* is not a span; expected"
    ):
        read_tags(write(json.dumps([task("<p>Rome</p>", html)]), "a.json"))


def test_label_studio_text_of_a_region_shows_utf16(write):
    """The text of a region shows what offsets count where no word border does."""
    tasks = [task("😀東京に行く", region(2, 4, "東京", "LOC"))]
    with pytest.raises(
        UserError, match=r"'\[京に\]' \(LOC, where the record says '東京'.*set config.data.offsets=utf16"
    ):
        read_tags(write(json.dumps(tasks), "a.json"))
    path = write(
        json.dumps([task("a\nRome", region(2, 6, "Rome", "LOC"), region(0, 6, "a\\nRome", "X"))]), "a.json"
    )
    assert read_tags(path, rules=SpanRules(overlaps="longest"))[0] == ["a:B-X Rome:I-X"]


# ------------------------------------------------------------------ Prodigy


def prodigy(text, answer="accept", **more):
    return {"text": text, "_input_hash": 1, "_task_hash": 2, "_session_id": "me", "answer": answer} | more


def prodigy_ner(text, *spans, answer="accept", **more):
    words = text.split(" ")
    tokens = [
        {"text": w, "start": text.index(w), "end": text.index(w) + len(w), "id": n, "ws": True}
        for n, w in enumerate(words)
    ]
    return prodigy(
        text, answer, tokens=tokens, spans=[*spans], _is_binary=False, _view_id="ner_manual", **more
    )


LOC = {"start": 0, "end": 4, "token_start": 0, "token_end": 0, "label": "LOC"}


def test_prodigy_reads_accepted_answers(write):
    records = [
        prodigy_ner("Rome sleeps", LOC),
        prodigy_ner("Rome naps", LOC, answer="reject"),
        prodigy_ner("none here"),
        prodigy_ner("unsure here", answer="ignore"),
    ]
    path = write(records)
    assert read_tags(path) == (
        [*ROME, "none here"],
        [
            "records of Prodigy",
            "2 of 4 answers are read, those with accept (not 1 reject, 1 ignore); ?answer=accept,reject after the "
            "file's name chooses others",
        ],
    )
    assert read_tags(f"{path}?answer=accept,reject") == (
        [*ROME, "Rome:B-LOC naps", "none here"],
        ["records of Prodigy"],
    )
    assert [s.words[0] for s in read_sentences(path, tagged=False)] == ["Rome", "Rome", "none", "unsure"]


def test_prodigy_warns_of_binary_spans(write):
    record = prodigy("Rome sleeps", spans=[LOC], _view_id="ner", _is_binary=True)
    sentences, log = read_tags(write([record]))
    assert sentences == ROME and log[1].startswith("warning: 1 records answer yes or no to single spans")


def test_prodigy_categories(write):
    options = [{"id": "POS", "text": "positive"}, {"id": "NEG", "text": "negative"}]
    chosen = [
        prodigy(f"t{n}", options=options, accept=[label], _view_id="choice")
        for n, label in enumerate(("POS", "NEG"))
    ]
    assert read_labels(write(chosen)) == ([("t0", "POS"), ("t1", "NEG")], ["records of Prodigy"])
    chosen.append(prodigy("t2", options=options, accept=[], config={"choice_style": "multiple"}))
    assert read_labels(write(chosen), problem=MULTI)[0][2] == ("t2", ())
    binary = [prodigy("a", label="SPAM", _view_id="classification"), prodigy("b", "reject", label="SPAM")]
    path = write(binary)
    assert read_labels(path)[0] == [("a", "SPAM")]
    assert read_labels(f"{path}?answer=accept,reject") == (
        [("a", "SPAM"), ("b", "not SPAM")],
        ["records of Prodigy", "1 rejected labels X are read as labels 'not X'"],
    )


# ------------------------------------------------------------------ spaCy


def spacy_document(number):
    def token(index, orth, ner, tag):
        return {"id": index, "orth": orth, "tag": tag, "head": 0, "dep": "ROOT", "ner": ner}

    first = [token(0, "New", "B-GPE", "NNP"), token(1, "York", "L-GPE", "NNP"), token(2, "naps", "O", "VBZ")]
    second = [token(0, "Rome", "U-GPE", "NNP"), token(1, "too", "-", "RB")]
    paragraph = {
        "raw": "New York naps Rome too",
        "sentences": [{"tokens": first, "brackets": []}, {"tokens": second, "brackets": []}],
        "cats": [{"label": "NAP", "value": 1.0}, {"label": "WAR", "value": 0.0}],
    }
    return {"id": number, "paragraphs": [paragraph]}


def test_spacy_version_2(write):
    path = write(json.dumps([spacy_document(0), spacy_document(1)], indent=2), "train.json")
    sentences, log = read_tags(path)
    assert sentences == ["New:B-GPE York:L-GPE naps", "Rome:U-GPE too"] * 2
    assert log == [
        "records of spaCy",
        "warning: 2 tokens have the tag '-' (not known), which is read as O, outside of entities",
    ]
    assert [s.words for s in read_sentences(path, tagged=False)][:2] == [
        ["New", "York", "naps"],
        ["Rome", "too"],
    ]
    assert read_labels(path)[0] == [("New York naps Rome too", "NAP")] * 2


@pytest.mark.parametrize("layout", ["document", "lines", "one line", "annotations", "object in one line"])
def test_spacy_offsets(write, layout):
    texts = [
        ["Rome sleeps", {"entities": [[0, 4, "LOC"]], "cats": {"NAP": True, "WAR": False}}],
        ["none here", {"entities": [], "cats": {"NAP": 0.1, "WAR": 0.9}}],
    ]
    texts_or_none = [texts[0], None, texts[1]]
    content, name = {
        "document": (json.dumps(texts, indent=1), "train.json"),
        "lines": (texts, "train.jsonl"),
        "one line": (json.dumps(texts), "train.json"),
        "annotations": (
            json.dumps({"classes": ["LOC"], "annotations": texts_or_none}, indent=1),
            "annotations.json",
        ),
        "object in one line": (
            json.dumps({"classes": ["LOC"], "annotations": texts_or_none}),
            "annotations.json",
        ),
    }[layout]
    path = write(content, name)
    assert read_tags(path) == ([*ROME, "none here"], ["records of spaCy"])
    assert read_labels(path)[0] == [("Rome sleeps", "NAP"), ("none here", "WAR")]


# ------------------------------------------------------------------ others


def test_other_records_are_left_as_they_are(write):
    """Records with our keys, and data sets with keys that tools have too, are read as before."""
    path = write([{"tokens": ["Rome"], "tags": ["B-LOC"], "label": [[0, 4, "LOC"]], "text": "Rome"}])
    assert read_tags(path) == (["Rome:B-LOC"], [])
    path = write([{"text": "a", "answer": "accept"}, {"text": "b", "answer": "reject"}])
    assert read_labels(path, "answer") == ([("a", "accept"), ("b", "reject")], [])
    path = write([{"text": "a", "label": "x", "data": {"k": 1}, "annotations": 3}])
    assert read_labels(path) == ([("a", "x")], [])


def test_the_first_records_of_a_pipe_are_not_waited_for(monkeypatch):
    class Endless(io.RawIOBase):
        def __init__(self):
            super().__init__()
            self.count = 0

        def __iter__(self):
            for self.count in itertools.count(1):
                yield json.dumps(prodigy_ner("Rome sleeps", LOC)).encode() + b"\n"

        def peek(self, size):
            return b'{"text": "x"}\n'

    stream = Endless()
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stream}))
    assert next(read_sentences("-", tagged=False)).words == ["Rome", "sleeps"]
    assert stream.count <= 2
