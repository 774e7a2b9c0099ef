"""doccano's exports are read, and their relations are said to be left out."""

import json

import pytest

from jaxft.data.sources.labels import MULTI
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError
from tests.data.sources.annotation_tools.conftest import ROME, read_labels, read_tags


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
    assert [sentence.text for sentence in read_sentences(path, tagged=False)] == ["Rome sleeps"] * 2


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
