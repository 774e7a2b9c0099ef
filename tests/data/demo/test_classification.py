"""The sentiment and intent corpora are the same on every reading, and share no text between splits."""

import pytest

from jaxft.data.demo import classification
from jaxft.data.sources.dev_split import find_text_overlap
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import collect_label_names
from jaxft.errors import UserError


@pytest.mark.parametrize("name", ["sentiment", "intent"])
def test_corpora_are_the_same_on_every_reading_and_share_no_text(name):
    splits = {
        s: list(read_labelled_texts(f"demo:{name}/{s}", columns=TextColumns())) for s in classification.SIZES
    }
    assert {s: len(e) for s, e in splits.items()} == classification.SIZES
    assert splits["dev"] == list(read_labelled_texts(f"demo:{name}/dev", columns=TextColumns()))
    assert find_text_overlap(splits["train"], splits["dev"] + splits["test"]).sum() == 0
    assert collect_label_names(splits["train"]) == collect_label_names(splits["test"])
    with pytest.raises(
        UserError, match="demo:x/train: no such corpus of texts with labels; expected demo:sentiment"
    ):
        list(read_labelled_texts("demo:x/train", columns=TextColumns()))
