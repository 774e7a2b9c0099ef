"""The similarity corpus: labels follow from what requests ask and name, and no pair stands in two splits."""

import pytest

from jaxft.data.demo import similarity
from jaxft.data.sources.dev_split import find_text_overlap
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import NUMBER, LabelRules
from jaxft.errors import UserError


def test_pairs_are_as_similar_as_what_they_ask_and_name():
    columns = TextColumns("text", "text_pair", "label")
    splits = {
        s: list(read_labelled_texts(f"demo:similarity/{s}", columns=columns, rules=LabelRules(NUMBER)))
        for s in similarity.SIZES
    }
    assert {s: len(e) for s, e in splits.items()} == similarity.SIZES
    assert splits["dev"] == list(
        read_labelled_texts("demo:similarity/dev", columns=columns, rules=LabelRules(NUMBER))
    )
    assert find_text_overlap(splits["train"], splits["dev"] + splits["test"]).sum() == 0
    values = [example.label for example in splits["train"]]
    assert min(values) == 0 and max(values) == 5 and 1.5 < sum(values) / len(values) < 2.5
    labels = {(e.text, e.pair): e.label for e in splits["test"]}
    sent = "The 300 dollars that I sent Anna this morning have not arrived."
    assert labels[sent, "Anna did not get my transfer of 300 dollars."] == 4.33  # two of three in common
    assert labels["Somebody has my card, block it please?", "I lost my card yesterday, please help."] == 3
    blocked = "My PIN was blocked in the airport yesterday."  # another subject, and one of three
    assert labels[blocked, "Why was I charged 20 euros extra yesterday?"] == 0.67
    with pytest.raises(
        UserError, match="demo:similarity/all: no such corpus; expected demo:similarity/train"
    ):
        list(read_labelled_texts("demo:similarity/all", columns=columns, rules=LabelRules(NUMBER)))
