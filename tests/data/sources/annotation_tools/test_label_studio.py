"""Label Studio's exports are read, and what is left out of them is said."""

import csv
import io
import json

import pytest

from jaxft.data.sources.labels import MULTI, NUMBER
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError
from tests.data.sources.annotation_tools.conftest import (
    ROME,
    choice,
    json_min,
    read_labels,
    read_tags,
    region,
    task,
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
