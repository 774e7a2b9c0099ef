"""Predictions stand next to the words of a file with a word a line, and every other line comes out as it was."""

import pytest
from hypothesis import given

from jaxft.data.sources import encodings
from jaxft.data.sources.files import log_nothing
from jaxft.data.sources.formats import SENTENCES, FileFormat
from jaxft.data.sources.tagged_sentences import conll
from jaxft.data.sources.tagged_sentences.column_layout import ColumnSettings
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.inference.input_records import open_input
from jaxft.inference.output_formats import ColumnWriter
from tests.data.sources.tagged_sentences.test_conll import CONLLU as ANY_CONLLU
from tests.data.sources.tagged_sentences.test_conll import write_conllu


def tag_with_words(path, word_column=None):
    """Returns the output for a file in which each word is its own tag."""
    records = open_input(str(path), SENTENCES, FileFormat(), log_nothing, keys=["text"])
    name = records.source.format.name
    layout = conll.read_layout(records.source, ColumnSettings(word_column, is_conllu=name == "conllu"))

    def read_columns(lines):
        format = FileFormat(name, encodings.UTF8)
        return read_sentences(lines, format=format, word_column=word_column, tagged=False, layout=layout)

    writer, pieces = ColumnWriter(records.lines), []
    for item in records.read("text", read_columns):
        if item is not None:
            tags = [f"T-{word}" for word in item.value.words]
            pieces += writer.render(item, item.value, {"predicted_tags": tags})
    return b"".join(pieces + writer.render_rest()).decode()


REST = 8 * "\t_"
CONLLU = [
    ("# sent_id = 1", None),
    ("# 1\tx" + REST, None),
    ("1-2\tdu" + REST, None),
    ("1\tde" + REST, "de"),
    ("2\tle" + REST, "le"),
    ("2.1\tnul" + REST, None),
    ("3\ta b" + REST, "a b"),
    ("3.1\tnul" + REST, None),
    ("", None),
    ("# newdoc", None),
    ("0.1\tnul" + REST, None),
    ("1\t#" + REST, "#"),
    ("2\t2-3" + REST, "2-3"),
]
HEADERS = [
    ("token\ttag", None),
    ("", None),
    ("Rome\tB-LOC", "Rome"),
    ("token\ttag", None),
    ("sleeps\tO", "sleeps"),
    ("", None),
    ("token\tO", "token"),
]
COMMENTS = [
    ("# begin document doc1", None),
    ("Rome NNP x B-LOC", "Rome"),
    ("sleeps VBZ x O", "sleeps"),
    ("", None),
    ("# NNP x O", "#"),
    ("1 CD x O", "1"),
    ("", None),
    ("# end document doc1", None),
]
SENTENCE_COLUMN = [
    ("sentence_id\tword\tner", None),
    ("1\tRome\tB-LOC", "Rome"),
    ("\tsleeps\tO", "sleeps"),
    ("2\t.\tO", "."),
]
PREFIXES = [("en:Rome\tB-LOC", "Rome"), ("en::\tO", ":"), ("", None), ("en:it\tO", "it")]
LABEL_STUDIO = [("-DOCSTART- -X- O", None), ("Rome -X- _ B-A City", "Rome"), ("it -X- _ O", "it")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.conllu", CONLLU),
        ("a.conll", CONLLU),
        ("a.tsv", HEADERS),
        ("a.conll", COMMENTS),
        ("a.tsv", SENTENCE_COLUMN),
        ("a.conll", PREFIXES),
        ("a.conll", LABEL_STUDIO),
    ],
)
def test_words_get_a_column_and_other_lines_stay(tmp_path, name, lines, line_end):
    path = tmp_path / name
    path.write_bytes("".join(line + line_end for line, _ in lines).encode())
    divider = "\t" if "\t" in lines[-2][0] + lines[1][0] + lines[0][0] else " "
    expected = [line if word is None else f"{line}{divider}T-{word}" for line, word in lines]
    assert tag_with_words(path).split(line_end) == [*expected, ""]


def test_the_columns_of_the_run_count(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("1 Rome\n2 sleeps\n")
    assert tag_with_words(path, word_column=1) == "1 Rome T-Rome\n2 sleeps T-sleeps\n"


@given(ANY_CONLLU)
def test_any_conllu_comes_out_aligned(tmp_path_factory, corpus):
    path = tmp_path_factory.mktemp("conllu") / "a.conllu"
    lines, numbers = write_conllu(corpus)
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    for places, (_, words) in zip(numbers, corpus, strict=True):
        for number, (word, *_) in zip(places, words, strict=True):
            lines[number - 1] += f"\tT-{word}"
    assert tag_with_words(path).split("\n") == lines
