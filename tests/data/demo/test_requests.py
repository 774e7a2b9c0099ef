"""The requests corpus gives both readers the same texts, with intents and spans."""

import pytest

from jaxft.data.demo import requests
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import MULTI, LabelRules
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError


def test_requests_have_intents_and_spans():
    """Both readers get the same texts, each split has other texts, and spans hold what their label says."""
    texts = {}
    for split in requests.SIZES:
        source = f"demo:requests/{split}"
        sentences = list(read_sentences(source))
        examples = list(
            read_labelled_texts(source, columns=TextColumns("text", None, "intents"), rules=LabelRules(MULTI))
        )
        assert [s.text for s in sentences] == [t.text for t in examples] and len(examples) == requests.SIZES[
            split
        ]
        assert {len(t.label) for t in examples} == {1, 2}
        texts[split] = {t.text for t in examples}
    assert not texts["train"] & texts["dev"] and not texts["dev"] & texts["test"]
    for _, _, record in requests.generate_records("demo:requests/dev"):
        for span in record["spans"]:
            if span["label"] == "amount":
                assert record["text"][span["start"]].isdigit()
    with pytest.raises(UserError, match="demo:requests/all: no such corpus"):
        list(requests.generate_records("demo:requests/all"))
