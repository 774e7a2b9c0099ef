"""Tables with a word a row become the sentences that a column tells, or are refused; other tables stay."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import UserError
from tests.data.sources.conftest import read_list, word_tag_pairs

SENTENCES = [
    [("Rome", "B-geo"), (",", "O"), ('"', "O"), ("[", "O")],
    [("sleeps", "O")],
    [("New-York", "B-geo"), ("NA", "O")],
]
WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=4).filter(
    lambda word: word[:2] not in ('["', "['")
)


def table_text(rows):
    """Returns rows as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def kaggle_rows(sentences, is_filled):
    """Returns the rows of Kaggle's table of entities; the sentence is named in its first row, or in all."""
    rows = [["Sentence #", "Word", "POS", "Tag"]]
    for number, sentence in enumerate(sentences, 1):
        names = (
            [f"Sentence: {number}"] * len(sentence)
            if is_filled
            else [f"Sentence: {number}", *[""] * (len(sentence) - 1)]
        )
        rows += [[name, word, "NN", tag] for name, (word, tag) in zip(names, sentence, strict=True)]
    return rows


@pytest.mark.parametrize("is_filled", [True, False])
def test_words_are_grouped_by_their_sentence(write_source, is_filled):
    log = []
    path = write_source(table_text(kaggle_rows(SENTENCES, is_filled)), "kaggle.csv")
    sentences = read_list(path, log=log.append)
    assert word_tag_pairs(sentences) == SENTENCES
    assert [s.origin for s in sentences] == [f"{path}:{line}" for line in (2, 6, 7)]
    assert any(
        "a word in each row, sentences from column 'Sentence #', words from 'Word', tags from 'Tag'" in x
        for x in log
    )
    assert [s.tags for s in read_list(path, columns={"tags": "POS"})] == [["NN"] * len(s) for s in SENTENCES]
    assert [s.words for s in read_list(path, tagged=False)] == [[word for word, _ in s] for s in SENTENCES]


WORDS = st.lists(st.tuples(WORD, st.sampled_from(["O", "B-X"])), min_size=1, max_size=4)


@given(st.lists(WORDS, min_size=1, max_size=5), st.booleans())
def test_any_words_come_back(tmp_path_factory, corpus, is_filled):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_text(
        table_text(
            kaggle_rows(
                [[("the", "O"), *sentence, ("a", "O")] + 9 * [("b", "O")] for sentence in corpus], is_filled
            )
        ),
        "utf-8",
    )
    assert [pairs[1:-10] for pairs in word_tag_pairs(read_list(str(path)))] == corpus


def test_records_of_any_format_are_grouped(write_source, tmp_path):
    rows = [
        {"sent_id": number, "token": word, "pos": "X", "ner": tag}
        for number, sentence in enumerate(SENTENCES)
        for word, tag in sentence
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    paths = [
        write_source(rows, "a.jsonl"),
        write_source(json.dumps(rows), "a.json"),
        str(tmp_path / "a.parquet"),
    ]
    paths.append(
        write_source(
            "sent_id\ttoken\tpos\tner\n" + "".join("\t".join(map(str, r.values())) + "\n" for r in rows),
            "a.tsv",
        )
    )
    for path in paths:
        assert word_tag_pairs(read_list(path)) == SENTENCES, path
    renamed = [{"s": r["sent_id"], "mot": r["token"], "classe": r["ner"]} for r in rows]
    columns = {"sentence": "s", "tokens": "mot", "tags": "classe"}
    assert word_tag_pairs(read_list(write_source(renamed, "a.jsonl"), columns=columns)) == SENTENCES


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("Word,Tag\na,O\nb,O\nc,O\n", {}, "in 'Word' and one tag in 'Tag', and no column tells .*columns=sentence"),
        ("w,t\na,O\nb,O\nc,O\n", {"tokens": "w", "tags": "t"}, "in 'w' .* name it with config.data.columns=sentence"),
        ("Sentence,Word,Tag\n1,a,O\n2,b,O\n1,c,O\n", {}, "line 4: the sentence '1' in column 'Sentence' has ended"),
        ("Sentence,Word,Tag\n1,a,O\n1,,O\n" + 20 * "1,c,O\n", {}, "line 3: no word in column 'Word'"),
        ("s,text\n1,a b\n2,c d\n", {"sentence": "s"}, "names 's' as the column of sentences, but the rows do"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(write_source, content, columns, message):
    with pytest.raises(UserError, match=message):
        read_list(write_source(content, "a.csv"), columns=columns)


def test_tables_with_a_sentence_a_row_stay(write_source):
    content = "sentence_id,tokens,tags\n1,a b,O O\n1,c,O\n2,d,O\n3,e f g,O O O\n"
    assert [s.words for s in read_list(write_source(content, "a.csv"))] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e", "f", "g"],
    ]
    records = [{"sentence": "a b", "tokens": ["a"], "tags": ["O"], "sentence_id": 1} for _ in range(3)]
    assert [s.words for s in read_list(write_source(records, "a.jsonl"))] == 3 * [["a"]]
    records = [{"sentence_id": 1, "text": "Rome", "label": "x", "spans": []} for _ in range(3)]
    assert [s.words for s in read_list(write_source(records, "a.jsonl"))] == 3 * [["Rome"]]
