"""Prodigy's accepted answers are read, and the number of the others is said."""

from jaxft.data.sources.labels import MULTI
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from tests.data.sources.annotation_tools.conftest import (
    LOC,
    ROME,
    prodigy,
    prodigy_ner,
    read_labels,
    read_tags,
)


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
