"""Records of no tool stay as they are, a pipe is not read ahead, and broken records are errors of users."""

import contextlib
import copy
import functools
import io
import json
import operator
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.sources.annotation_tools.base import Reading
from jaxft.data.sources.annotation_tools.tools import convert_items
from jaxft.data.sources.labelled_texts import TextColumns, parse_labelled_text
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.spans import parse_sentences
from jaxft.errors import UserError
from tests.data.sources.annotation_tools.conftest import (
    LOC,
    choice,
    json_min,
    prodigy_ner,
    read_labels,
    read_tags,
    region,
    spacy_document,
    task,
)


def test_other_records_are_left_as_they_are(write):
    """Records with our keys, and data sets with keys that tools have too, are read as before."""
    path = write([{"tokens": ["Rome"], "tags": ["B-LOC"], "label": [[0, 4, "LOC"]], "text": "Rome"}])
    assert read_tags(path) == (["Rome:B-LOC"], [])
    path = write([{"text": "a", "answer": "accept"}, {"text": "b", "answer": "reject"}])
    assert read_labels(path, "answer") == ([("a", "accept"), ("b", "reject")], [])
    path = write([{"text": "a", "label": "x", "data": {"k": 1}, "annotations": 3}])
    assert read_labels(path) == ([("a", "x")], [])


@pytest.mark.parametrize(
    ("tool", "record", "key", "outcome"),
    [
        (
            "doccano",
            {"id": 1, "text": "Rome sleeps", "label": [[0, 4, "LOC"]]},
            "label",
            pytest.raises(UserError, match="line 1: no spans in keys"),
        ),
        ("Prodigy", prodigy_ner("Rome sleeps", LOC), "answer", contextlib.nullcontext()),
    ],
)
def test_a_record_that_hides_a_tool_is_named(write, tool, record, key, outcome):
    """An error is about the first record, which is right; the log names the record that is not."""
    stray = {"typo" if name == key else name: value for name, value in record.items()}
    log = []
    with outcome:
        list(read_sentences(write([record, record, stray, record]), log=log.append))
    (line,) = [line for line in log if line.startswith("warning: ")]
    assert "line 3 has the keys" in line and "'typo'" in line and f"is not of {tool}," in line


def test_the_first_records_of_a_pipe_are_not_waited_for(monkeypatch):
    class Endless(io.RawIOBase):
        def __init__(self):
            super().__init__()
            self.count = 0

        def readline(self, size):
            self.count += 1
            return json.dumps(prodigy_ner("Rome sleeps", LOC)).encode() + b"\n"

        def peek(self, size):
            return b'{"text": "x"}\n'

    stream = Endless()
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stream}))
    assert next(read_sentences("-", tagged=False)).words == ["Rome", "sleeps"]
    assert stream.count <= 2


SAMPLES = [
    {"id": 1, "text": "Rome sleeps", "label": [[0, 4, "LOC"]], "Comments": []},
    {"id": 1, "text": "Rome sleeps", "cats": ["nap"], "entities": [[0, 4, "LOC"]]},
    {
        "text": "Rome",
        "entities": [{"id": 9, "label": "LOC", "start_offset": 0, "end_offset": 4}],
        "relations": [],
    },
    task(
        "Rome sleeps",
        region(0, 4, "Rome", "LOC"),
        choice("mood", "pos"),
        {"type": "relation", "from_id": "a"},
    ),
    json_min("Rome", {"label": [{"start": 0, "end": 4, "text": "Rome", "labels": ["LOC"]}], "mood": "pos"}),
    prodigy_ner("Rome sleeps", LOC, options=[{"id": "POS"}], accept=["POS"]),
    spacy_document(0),
    ["Rome sleeps", {"entities": [[0, 4, "LOC"]], "cats": {"NAP": True}}],
    {"classes": ["LOC"], "annotations": [["Rome", {"entities": [[0, 4, "LOC"]]}], None]},
]
JUNK = st.sampled_from(
    [None, 3, -1.5, "", "x", True, [], {}, [None], [3], {"x": 3}, [[]], [{}], float("nan")]
)


def list_places(value, place=()):
    """Yields the places of all values inside a JSON value, each as a tuple of keys and indices."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*place, key)
        yield from list_places(child, (*place, key))


@settings(max_examples=500)
@given(st.sampled_from(SAMPLES), JUNK, st.booleans(), st.sampled_from(["sentence", "text"]), st.data())
def test_broken_records_are_errors_of_users(sample, junk, labelled, noun, data):
    broken = copy.deepcopy(sample)
    *parents, key = data.draw(st.sampled_from(list(list_places(broken))))
    parent = functools.reduce(operator.getitem, parents, broken)
    parent[key] = junk
    items = [("f, line 1", "f:1", sample), ("f, line 2", "f:2", broken)][data.draw(st.integers(0, 1)) :]
    reading = Reading(noun, "f", lambda line: None, labelled)
    try:
        rows = list(convert_items(iter(items), reading, sampled=1))
        rows = [row for row in rows if isinstance(row[2], dict)]
        if noun == "sentence":
            list(parse_sentences(iter(rows), tagged=labelled, columns={}))
        for row in rows if noun == "text" else ():
            parse_labelled_text(*row, TextColumns(label="label" if labelled else None))
    except UserError:
        pass
