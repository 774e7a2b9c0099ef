"""Records are filtered by their fields, alike for every reader, and hub addresses are taken apart."""

import json

import pytest

from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.records import hub
from jaxft.data.sources.tagged_sentences.sentence import keep_longest_spans
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [
        {"text": f"t{i}", "label": "a", "spans": [], "fold": i % 4, "even": i % 2 == 0}
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
        ("fold!=0&even=true", "26"),
        ("text=t5", "5"),
    ],
)
def test_records_are_filtered(file, choice, expected):
    """The filter is the same for texts, words and questions, and origins are the lines of the file."""
    texts = list(read_labelled_texts(f"{file}?{choice}", columns=TextColumns()))
    assert "".join(t.text[1] for t in texts) == expected
    assert [t.origin for t in texts] == [f"{file}:{int(n) + 1}" for n in expected]
    words = list(read_sentences(f"{file}?{choice}"))
    assert [(w.origin, w.text) for w in words] == [(t.origin, t.text) for t in texts]
    questions = list(read_questions(f"{file}?{choice}"))
    assert [(q.origin, q.question) for q in questions] == [(t.origin, t.text) for t in texts]


def test_json_documents_have_no_records_to_filter(tmp_path):
    (tmp_path / "a.json").write_text('{"data": [{"paragraphs": []}]}')
    with pytest.raises(
        UserError, match=r"a.json\?fold=1: \?fold=1 chooses records by a key, which squad has none of"
    ):
        read_questions(f"{tmp_path}/a.json?fold=1")


def test_tables_are_filtered_and_names_may_have_a_question_mark(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,fold\nx,a,1\ny,b,2\n")
    assert [t.text for t in read_labelled_texts(f"{tmp_path}/a.csv?fold=2", columns=TextColumns())] == ["y"]
    (tmp_path / "b.csv?fold=2").write_text("text,label\nz,a\n")
    texts = read_labelled_texts(
        str(tmp_path / "b.csv?fold=2"), columns=TextColumns(), format=FileFormat("csv")
    )
    assert [t.text for t in texts] == ["z"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("folds=1", r"line 1: no key 'folds' in \[.*'fold', .*\?folds=1 chooses by it"),
        ("fold", r"\?fold: 'fold' is no condition; expected KEY=VALUES"),
        ("fold=9", r"data.jsonl\?fold=9: empty, it holds no (text|question)"),
    ],
)
def test_bad_filters_are_named(file, choice, message):
    with pytest.raises(UserError, match=message):
        list(read_labelled_texts(f"{file}?{choice}", columns=TextColumns()))
    with pytest.raises(UserError, match=message):
        list(read_questions(f"{file}?{choice}"))


def test_conll_columns_have_no_keys_to_filter_by(tmp_path):
    (tmp_path / "a.conll").write_text("a O\n")
    with pytest.raises(
        UserError, match=r"a.conll\?fold=1: \?fold=1 chooses records by a key, which conll has none"
    ):
        list(read_sentences(f"{tmp_path}/a.conll?fold=1"))


def test_the_longest_of_overlapping_spans_counts(tmp_path):
    assert keep_longest_spans([(0, 3, "a"), (1, 9, "b"), (8, 10, "c"), (9, 10, "d")]) == [
        (1, 9, "b"),
        (9, 10, "d"),
    ]
    path = tmp_path / "a.jsonl"
    spans = [{"start": 0, "end": 8, "label": "X"}, {"start": 5, "end": 8, "label": "Y"}]
    path.write_text(json.dumps({"text": "from 5pm on", "spans": spans}) + "\n")
    with pytest.raises(UserError, match="overlap; .*or set config.data.overlaps='longest'"):
        list(read_sentences(str(path)))
    lines = []
    [sentence] = read_sentences(str(path), rules=SpanRules(overlaps="longest"), log=lines.append)
    assert "1 of 2 spans overlap a longer or an earlier one, and are left out" in "\n".join(lines)
    assert sentence.tags == ["B-X", "I-X", "O"]


@pytest.mark.parametrize(
    ("address", "split", "expected"),
    [
        ("hub:conll2003/train", None, ("conll2003", None, None, "train")),
        ("hub:org/name", "dev", ("org/name", None, None, "dev")),
        ("hub:org/name/train[:5%]", None, ("org/name", None, None, "train[:5%]")),
        ("hub:org/name/odd", None, ("org/name", None, None, "odd")),
        ("hub:name@v1.0/test", None, ("name", None, "v1.0", "test")),
        ("hub:org/name@refs/pr/1", "train", ("org/name", None, "refs/pr/1", "train")),
    ],
)
def test_hub_addresses_are_parsed(address, split, expected):
    assert hub.parse_hub_address(address, split) == expected
