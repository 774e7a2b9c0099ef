"""CLUENER's entities are read with their inclusive ends, which their texts confirm."""

import json

import pytest

from jaxft.errors import UserError
from tests.data.sources.conftest import read_list, word_tag_pairs

RECORD = {
    "text": "浙商银行企业信贷部叶老桂博士",
    "label": {"name": {"叶老桂": [[9, 11]]}, "company": {"浙商银行": [[0, 3]]}},
}


def test_entities_have_inclusive_ends(write_source):
    log = []
    records = [
        RECORD,
        {"text": "叶叶", "label": {"name": {"叶": [[0, 0], [1, 1]]}}},
        {"text": "无", "label": {}},
    ]
    sentences = read_list(write_source(records, "train.json"), log=log.append)
    assert [[p for p in pairs if p[1] != "O"] for pairs in word_tag_pairs(sentences)] == [
        [*zip("浙商银行", ["B-company", *3 * ["I-company"]], strict=True)]
        + [("叶", "B-name"), ("老", "I-name"), ("桂", "I-name")],
        [("叶", "B-name"), ("叶", "B-name")],
        [],
    ]
    assert any("records of CLUENER" in line for line in log)
    # Its test set has no label.
    assert read_list(write_source('{"id": 0, "text": "叶"}\n', "test.json"), tagged=False)[0].words == ["叶"]


def test_exclusive_ends_are_seen_and_wrong_places_refused(write_source):
    exclusive = json.loads(json.dumps(RECORD).replace("[9, 11]", "[9, 12]").replace("[0, 3]", "[0, 4]"))
    assert read_list(write_source([exclusive], "a.jsonl")) == read_list(write_source([RECORD], "a.jsonl"))
    wrong = json.loads(json.dumps(RECORD).replace("[9, 11]", "[8, 10]"))
    with pytest.raises(UserError, match=r"a.jsonl, line 1: '叶老桂' \(name\) does not stand at 8..10"):
        read_list(write_source([wrong], "a.jsonl"))
