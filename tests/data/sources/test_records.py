"""Records chosen by a field, spans that overlap, texts that tasks share, and the requests with both kinds of label."""

import json

import pytest

from jaxft.data.demo import requests
from jaxft.data.encoding.multi_task import join_examples, parse_data_sets
from jaxft.data.sources.labelled_texts import MULTI, LabelledText, TextColumns, read_labelled_texts
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.sentence import Sentence, keep_longest_spans
from jaxft.data.sources.sentences import read_sentences
from jaxft.errors import UserError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [
        {"text": f"t{i}", "label": "a", "spans": [], "fold": i % 4, "own": i % 2 == 0}
        | {"question": f"t{i}", "context": "here", "answers": []}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("fold=0", "04"),
        ("fold=1-2", "1256"),
        ("fold=0,3", "0347"),
        ("fold!=0-2", "37"),
        ("fold!=0&own=true", "26"),
        ("text=t5", "5"),
    ],
)
def test_records_are_chosen(file, choice, expected):
    """Alike for texts, words and questions; where they stand is told by the file's own lines."""
    texts = list(read_labelled_texts(f"{file}?{choice}", columns=TextColumns()))
    assert "".join(t.text[1] for t in texts) == expected
    assert [t.origin for t in texts] == [f"{file}:{int(n) + 1}" for n in expected]
    words = list(read_sentences(f"{file}?{choice}"))
    assert [(w.origin, w.text) for w in words] == [(t.origin, t.text) for t in texts]
    questions = list(read_questions(f"{file}?{choice}"))
    assert [(q.origin, q.question) for q in questions] == [(t.origin, t.text) for t in texts]


def test_documents_have_nothing_to_choose_by(tmp_path):
    (tmp_path / "a.json").write_text('{"data": []}')
    with pytest.raises(
        UserError, match=r"a.json\?fold=1: \?fold=1 chooses records by a key, which SQuAD's JSON has none of"
    ):
        read_questions(f"{tmp_path}/a.json?fold=1")


def test_tables_too_and_names_with_a_question_mark(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,fold\nx,a,1\ny,b,2\n")
    assert [t.text for t in read_labelled_texts(f"{tmp_path}/a.csv?fold=2", columns=TextColumns())] == ["y"]
    (tmp_path / "b.csv?fold=2").write_text("text,label\nz,a\n")
    read = read_labelled_texts(str(tmp_path / "b.csv?fold=2"), columns=TextColumns(), format="csv")
    assert [t.text for t in read] == ["z"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("folds=1", r"line 1: no key 'folds' in \[.*'fold', .*\?folds=1 chooses by it"),
        ("fold", r"\?fold: 'fold' is no condition; expected KEY=VALUES"),
        ("fold=9", r"data.jsonl\?fold=9: empty, it holds no (text|question)"),
    ],
)
def test_bad_choices(file, choice, message):
    with pytest.raises(UserError, match=message):
        list(read_labelled_texts(f"{file}?{choice}", columns=TextColumns()))
    with pytest.raises(UserError, match=message):
        list(read_questions(f"{file}?{choice}"))


def test_columns_have_nothing_to_choose_by(tmp_path):
    (tmp_path / "a.conll").write_text("a O\n")
    with pytest.raises(
        UserError, match=r"a.conll\?fold=1: \?fold=1 chooses records by a key, which conll has none"
    ):
        list(read_sentences(f"{tmp_path}/a.conll?fold=1"))


def test_of_overlapping_spans_the_longest_counts(tmp_path):
    assert keep_longest_spans([(0, 3, "a"), (1, 9, "b"), (8, 10, "c"), (9, 10, "d")]) == [
        (1, 9, "b"),
        (9, 10, "d"),
    ]
    path = tmp_path / "a.jsonl"
    spans = [{"start": 0, "end": 8, "label": "X"}, {"start": 5, "end": 8, "label": "Y"}]
    path.write_text(json.dumps({"text": "from 5pm on", "spans": spans}) + "\n")
    with pytest.raises(UserError, match="overlap; .*or set config.data.overlaps='longest'"):
        list(read_sentences(str(path)))
    [sentence] = read_sentences(str(path), overlaps="longest")
    assert sentence.tags == ["B-X", "I-X", "O"]


def test_sources_of_several_tasks(tmp_path):
    both = ("a", "b")
    assert parse_data_sets("x.jsonl?fold=1", both) == [(both, "x.jsonl?fold=1")]
    assert parse_data_sets("a=x.csv; a,b=y?k=1;z", both) == [(("a",), "x.csv"), (both, "y?k=1"), (both, "z")]
    (tmp_path / "odd;a=1.csv").write_text("")
    assert parse_data_sets(str(tmp_path / "odd;a=1.csv"), both) == [(both, str(tmp_path / "odd;a=1.csv"))]
    with pytest.raises(UserError, match="c=x.csv: 'c' is no task; expected FILE or TASK=FILE, .* a, b"):
        parse_data_sets("c=x.csv", both)


def test_the_same_text_is_one():
    """One of the same words and place; other texts of that place, and pairs, are read by themselves."""
    words = Sentence(["x", "y"], ["O", "O"], 0, "f:1", "x y", [(0, 1), (2, 3)])
    texts = [LabelledText("x y", None, "l", "f:1"), LabelledText("x y", None, "l", "f:2")]
    pair = LabelledText("x y", "z", "l", "f:1")
    found = join_examples({"a": [words], "b": texts, "c": [pair], "d": [words]}, 0, {})
    assert [(sorted(e.examples), e.origin) for e in found] == [
        (["a", "b", "d"], "f:1"),
        (["b"], "f:2"),
        (["c"], "f:1"),
    ]


def test_requests_have_intents_and_spans():
    """The same for both readers, other texts in each split, and spans that hold what their label says."""
    texts = {}
    for split in requests.SIZES:
        source = f"demo:requests/{split}"
        sentences = list(read_sentences(source))
        read = list(read_labelled_texts(source, columns=TextColumns("text", None, "intents"), problem=MULTI))
        assert [s.text for s in sentences] == [t.text for t in read] and len(read) == requests.SIZES[split]
        assert {len(t.label) for t in read} == {1, 2}
        texts[split] = {t.text for t in read}
    assert not texts["train"] & texts["dev"] and not texts["dev"] & texts["test"]
    for _, _, record in requests.generate_records("demo:requests/dev"):
        for span in record["spans"]:
            if span["label"] == "amount":
                assert record["text"][span["start"]].isdigit()
    with pytest.raises(UserError, match="demo:requests/all: no such corpus"):
        list(requests.generate_records("demo:requests/all"))
