"""spaCy's training data of version 2 and its lists of offsets are read."""

import json

import pytest

from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from tests.data.sources.annotation_tools.conftest import ROME, read_labels, read_tags, spacy_document


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
