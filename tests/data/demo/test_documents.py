"""The corpora of documents and headlines are the same on every reading, and their splits share no text."""

from jaxft.data.sources.documents import read_documents


def test_the_corpora_are_the_same_everywhere_and_their_splits_share_no_text():
    splits = {name: list(read_documents(f"demo:text/{name}")) for name in ("train", "dev", "test")}
    assert len(splits["train"]) > 800 and not {t.text for t in splits["train"]} & {
        t.text for t in splits["dev"]
    }
    pairs = {
        name: list(read_documents(f"demo:headline/{name}", template="{article}\n{headline}"))
        for name in ("train", "dev", "test")
    }
    targets = {name: {example.text for example in examples} for name, examples in pairs.items()}
    assert [len(examples) for examples in pairs.values()] == [3000, 200, 200]
    assert not targets["dev"] & (targets["train"] | targets["test"])
    assert pairs["dev"] == list(read_documents("demo:headline/dev", template="{article}\n{headline}"))
