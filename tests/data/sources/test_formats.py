"""Every task and verb reads a file in one way, which follows from its name and content, and the log says which."""

import csv
import io
import itertools
import json
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxft.data.demo import ner
from jaxft.data.sources import encodings, files, formats
from jaxft.data.sources.documents import read_documents
from jaxft.data.sources.formats import DOCUMENTS, QUESTIONS, SENTENCES, TEXTS, FileFormat, resolve_source
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.questions import read_questions
from jaxft.data.sources.records.reader import read_records
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError

KEYS = ("text", "label")
CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
TSV = "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\n"
PROSE = "EU rejects the German call.\nIt did.\n\nPeter (a man, 3; not old) left.\n"
LINES = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
CONLLU = "# sent_id = 1\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t0\troot\t_\t_\n\n"
SQUAD = '{"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}'
# name, content, format as sentences, texts, questions and documents; None if it cannot be told
FILES = [
    ("a.conll", CONLL, "conll", None, None, "text"),
    ("a.txt", CONLL, "conll", "text", None, "text"),
    ("eng.train", CONLL.replace("\n", " \r\n"), "conll", None, None, "text"),
    ("a.tsv", TSV, "conll", "tsv", "tsv", "tsv"),
    ("a.txt", TSV, "conll", "text", None, "text"),
    ("a.conllu", CONLLU, "conllu", None, None, "text"),
    ("a.txt", CONLLU, "conllu", "text", None, "text"),
    ("a.txt", PROSE, "text", "text", None, "text"),
    ("a", PROSE, None, None, None, "text"),
    ("a.txt", "[2019, the year of] {a: b}\n[1] See there.\n", "text", "text", None, "text"),
    ("a.jsonl", LINES, "jsonl", "jsonl", "jsonl", "jsonl"),
    ("a.txt", LINES, "jsonl", "jsonl", "jsonl", "text"),
    ("a.csv", LINES, "jsonl", "jsonl", "jsonl", "jsonl"),
    ("a.json", LINES, "jsonl", "jsonl", "jsonl", "jsonl"),
    ("a.jsonl", "[\n " + LINES.replace("}\n{", "},\n{") + "]", "json", "json", "json", "json"),
    ("a.json", SQUAD, "json", "json", "squad", "json"),
    ("a.csv", "text,label\na,x\n", "csv", "csv", "csv", "csv"),
    ("a.txt", "text\tlabel\na\tx\n", "tsv", "tsv", "tsv", "text"),
    ("a.tsv", "text\tlabel\na\tx\n", "tsv", "tsv", "tsv", "tsv"),
    ("a.tsv", 'text\tlabel\n"a ""b"""\tx\n', "csv", "csv", "csv", "csv"),
    ("a.txt", "", "conll", "text", None, "text"),
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def resolve(path, kind, format=formats.UNSET):
    """Returns the format of a file, and the lines of the log."""
    lines = []
    [resolved] = resolve_source(path, kind, format, lines.append, keys=KEYS)
    return resolved.format, lines


@pytest.mark.parametrize("file", FILES, ids=range(len(FILES)))
def test_name_and_content_decide_the_format(write, file):
    name, content, *expected = file
    path = write(name, content)
    for kind, format_name in zip((SENTENCES, TEXTS, QUESTIONS, DOCUMENTS), expected, strict=True):
        if format_name is None:
            with pytest.raises(
                UserError, match="neither its suffix nor its content .* set config.data.format to"
            ):
                resolve(path, kind)
            continue
        decided, lines = resolve(path, kind)
        assert (kind.noun, decided.name) == (kind.noun, format_name)
        suffix = name.rpartition(".")[2]
        assert bool(lines) != (
            format_name == suffix and name != "a.json"
        )  # what the suffix tells is not said
        assert all(line.startswith(f"{path}: read as ") and "config.data.format" in line for line in lines)


def test_training_and_prediction_read_a_file_alike(write):
    """The file of CoNLL-2003 was columns for one and prose for the other."""
    path = write("train.txt", CONLL)
    tagged, untagged = list(read_sentences(path)), list(read_sentences(path, tagged=False))
    assert [s.words for s in tagged] == [s.words for s in untagged] == [["EU", "rejects"], ["Peter"]]
    with pytest.raises(UserError, match="prose.txt: plain text has no tags; .* set config.data.format=conll"):
        list(read_sentences(write("prose.txt", PROSE)))
    with pytest.raises(UserError, match=r"a.tsv, line 2: no key 'text' in \['title', 'x'\]"):
        list(read_documents(write("a.tsv", "title\tx\na\tb\n")))


def test_demo_corpora_are_told_from_each_other(write):
    sentences = list(itertools.islice(ner.generate_sentences("dev"), 200))
    columns = "\n\n".join("\n".join(map(" ".join, zip(s.words, s.tags, strict=True))) for s in sentences)
    prose = "\n".join(" ".join(s.words) for s in sentences)
    for count in (1, 2, 3, 200):
        begin = "\n\n".join(columns.split("\n\n")[:count]) + "\n"
        assert resolve(write("a.txt", begin), SENTENCES)[0].name == "conll"
        assert resolve(write("b.txt", "\n".join(prose.split("\n")[:count])), SENTENCES)[0].name == "text"


@given(
    st.sampled_from(["csv", "tsv", "jsonl", "json", "text"]),
    st.sampled_from(["utf-8", "cp1252", "gb18030", "utf-16-le"]),
    st.sampled_from([",", ";", "\t", "x"]),
    st.sampled_from(["text;label\n", '{"text": "a"}\n', "EU\tB-ORG\n\n", "\ufefftext,label\r\n"]),
    st.sampled_from([".csv", ".tsv", ".json", ".txt", ""]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settings_are_never_changed(write, name, encoding, delimiter, content, suffix):
    setting = FileFormat(name, encoding, delimiter)
    assert resolve(write(f"a{suffix}", content * 3), TEXTS, setting) == (setting, [])


CELL = st.text(
    st.one_of(
        st.sampled_from(list(",;|\t\"'\n\r #-=[]{}aAé“€東\ufeff")),
        st.characters(exclude_categories=["Cs", "Cc"]),
    ),
    max_size=12,
)
ROWS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8)


def write_table(rows, delimiter, line_end, **dialect):
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter, lineterminator=line_end, **dialect).writerows([KEYS, *rows])
    return table.getvalue()


def read_rows(path, format=formats.UNSET):
    [source] = resolve_source(path, TEXTS, format, files.log_nothing, keys=KEYS)
    rows, _ = read_records(source, TEXTS, files.log_nothing)
    return [tuple(record[key] for key in KEYS) for _, _, record in rows]


@given(
    ROWS,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.booleans(),
    st.sampled_from([".csv", ".tsv", ".txt"]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_as_it_was_written(
    write, rows, delimiter, quoting, line_end, encoding, names_delimiter, suffix
):
    if line_end == "\r":  # a file has LF or CR as line ends
        rows = [tuple(cell.replace("\n", " ") for cell in row) for row in rows]
    if quoting == csv.QUOTE_MINIMAL:  # `csv` leaves CR without quotes
        rows = [tuple(cell.replace("\r", " ") for cell in row) for row in rows]
    rows = [row for row in rows if row != KEYS]
    text = write_table(rows, delimiter, line_end, quoting=quoting)
    content = (f"sep={delimiter}{line_end}" * names_delimiter + text).encode(encoding)
    path = write(f"a{suffix}", content)
    explicit = FileFormat("csv", encoding, delimiter)
    assert read_rows(path, explicit) == rows
    assert read_rows(path, FileFormat("csv")) == rows
    if suffix != ".txt" or rows:  # a header alone is a text
        assert read_rows(path) == rows


@given(ROWS, st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_quotes_of_tables_without_quoting_stay(write, rows, line_end):
    """Values keep their quotes, unless they look as CSV writes them; the name of the format settles it."""
    rows = [tuple(cell.translate(dict.fromkeys(map(ord, "\n\r\t"), " ")) for cell in row) for row in rows]
    rows = [row for row in rows if row != KEYS]
    path = write("a.tsv", line_end.join(map("\t".join, [KEYS, *rows])) + line_end)
    assert read_rows(path, FileFormat("tsv")) == rows
    if not any(cell.startswith('"') and cell.endswith('"') for row in rows for cell in row):
        assert read_rows(path) == rows


def test_one_format_is_logged_for_all_files_and_differences_are(write, tmp_path):
    for number, content in enumerate(["text;label\na;x\n", "text;label\nb;y\n", "text,label\nc,z\n"]):
        write(f"{number}.csv", content)
    lines = []
    texts = read_labelled_texts(f"{tmp_path}/*.csv", columns=TextColumns(), log=lines.append)
    assert [(text.text, text.label) for text in texts] == [("a", "x"), ("b", "y"), ("c", "z")]
    begin = f"{tmp_path}/*.csv: read as "
    assert lines == [
        f"{begin}2 of 3 files, CSV with semicolons between values; set config.data.delimiter if it is not",
        f"{begin}1 of 3 files, CSV with commas between values",
    ]


@pytest.mark.parametrize(
    ("content", "kind", "name", "words"),
    [
        (b"EU B-ORG\nrejects O\n", SENTENCES, "conll", "CoNLL columns"),
        (b"EU rejects it\n", SENTENCES, "text", "plain text"),
        (b'{"text": "a"}\n', TEXTS, "jsonl", "JSON lines"),
        (b'{"text": "a"}\n', DOCUMENTS, "text", "plain text"),
        (b'[{"text": "a"}]', TEXTS, "json", "one JSON document"),
        (b"text;label\na;b\n", TEXTS, "csv", "CSV with semicolons"),
        (SQUAD.encode(), QUESTIONS, "squad", "SQuAD's JSON"),
    ],
)
def test_stdin_is_told_by_what_has_arrived_which_stays(monkeypatch, content, kind, name, words):
    stdin = types.SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content)))
    monkeypatch.setattr("sys.stdin", stdin)
    decided, [line] = resolve("-", kind)
    assert decided.name == name and line.startswith(f"<stdin>: read as {words}")
    assert stdin.buffer.read() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08", "compressed with gzip; unpack it with `gunzip`"),
        (b"PK\x03\x04...xl/workbook.xml", r"an Excel workbook \(.xlsx\); save its sheet as CSV"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS; get the file with"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.conll"])
@pytest.mark.parametrize("format", [formats.UNSET, FileFormat("csv")])
def test_what_is_no_text_is_named(write, name, content, message, format):
    with pytest.raises(UserError, match=f"{name}: {message}"):
        resolve(write(name, content), SENTENCES, format)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_recognised_with_and_without_a_mark(write, encoding):
    path = write("a.csv", "text,label\nnaïve “film”,pos\n東京,neg\n".encode(encoding))
    decided, [line] = resolve(path, TEXTS)
    assert decided.encoding == encoding and f"in {encoding}; set config.data.encoding if it is not" in line
    assert read_rows(path) == [("naïve “film”", "pos"), ("東京", "neg")]


def test_windows_1252_is_refused_with_its_text_and_loses_nothing(write):
    path = write("a.csv", "text,label\n“a fine film” isn’t – 5 €,pos\n".encode("cp1252"))
    message = r"line 2, byte 1 .* 0x93 is not UTF-8; set config.data.encoding to .*; cp1252 reads '“a fine film” isn’t"
    with pytest.raises(UserError, match=message):
        read_rows(path)
    with pytest.raises(
        UserError, match=r"line 2: 0x93 is a control character in latin-1, and '“' in Windows-1252"
    ):
        read_rows(path, FileFormat(encoding="latin-1"))
    assert read_rows(path, FileFormat(encoding="cp1252")) == [("“a fine film” isn’t – 5 €", "pos")]
    with pytest.raises(UserError, match=r"a.csv, line 2: 0x93 is not ascii .*set config.data.encoding"):
        read_rows(path, FileFormat(encoding="ascii"))


@given(st.text(st.characters(codec="gb18030"), min_size=1).map(lambda text: text + "東京"), st.integers(1, 3))
def test_lines_are_the_same_in_pieces_of_any_size(text, size):
    raw = text.replace("\r", "").encode("gb18030")
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    assert b"".join(encodings.split_lines(pieces, "gb18030", "a")).decode() == text.replace("\r", "")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "“It’s fine” – 5 €"),
        ("cp1252", "Müller fährt nach Köln"),
        ("cp1250", "Łódź jest miastem"),
        ("cp1251", "1,Москва,LOC"),
        ("koi8-r", "Москва спит сегодня"),
        ("cp1253", "Αθήνα κοιμάται"),
        ("cp932", "東京は日本の首都です"),
        ("gb18030", "北京是中国的首都"),
        ("big5", "台北是首都"),
        ("cp949", "서울은 한국의 수도"),
    ],
)
def test_an_error_shows_how_the_text_reads_in_its_encoding(write, encoding, text):
    with pytest.raises(UserError, match=f"line 2, .*{encoding} reads '[^']*{text[-12:-5]}"):
        read_rows(write("a.csv", f"text,label\n{text}\n".encode(encoding)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (FileFormat("conll"), "config.data.format='conll' is not for texts; expected auto, text, jsonl"),
        (FileFormat(encoding="cp999"), "config.data.encoding='cp999': no encoding that Python knows"),
        (FileFormat(encoding="hex"), "config.data.encoding='hex': no encoding that Python knows"),
        (FileFormat(delimiter="||"), r"config.data.delimiter='\|\|': expected one character"),
        (FileFormat(delimiter='"'), "config.data.delimiter='\"': expected one character, .* no quote"),
    ],
)
def test_settings_that_cannot_be_are_named(write, setting, message):
    with pytest.raises(UserError, match=message):
        resolve(write("a.csv", "text,label\n"), TEXTS, setting)
    with pytest.raises(UserError, match=message):
        resolve_source(io.BytesIO(), TEXTS, setting, files.log_nothing)


RECORD = {
    **{"id": "q", "text": "Ann left", "label": "x", "spans": [{"start": 0, "end": 3, "label": "PER"}]},
    **{"question": "Who left?", "context": "Ann left", "answers": [{"text": "Ann", "answer_start": 0}]},
}
CELLS = {key: value if isinstance(value, str) else json.dumps(value) for key, value in RECORD.items()}


def write_cells(delimiter):
    table = io.StringIO()
    writer = csv.DictWriter(table, CELLS, delimiter=delimiter)
    writer.writeheader()
    writer.writerow(CELLS)
    return table.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps(RECORD)),
        ("a.json", json.dumps([RECORD])),
        ("a.json", json.dumps({"version": 1, "data": [RECORD]}, indent=1).encode("utf-16")),
        ("a.json", json.dumps({"columns": [*RECORD], "index": [0], "data": [[*RECORD.values()]]})),
        ("a.csv", write_cells(";")),
        ("a.csv", "sep=|\n" + write_cells("|")),
        ("a.tsv", write_cells("\t")),
    ],
)
def test_every_task_reads_every_layout(write, name, content):
    path = write(name, content)
    [sentence] = read_sentences(path)
    assert (sentence.words, sentence.tags) == (["Ann", "left"], ["B-PER", "O"])
    [text] = read_labelled_texts(path, columns=TextColumns())
    assert (text.text, text.label) == ("Ann left", "x")
    [question] = read_questions(path)
    assert question.answers == (("Ann", 0),)
    assert [document.text for document in read_documents(path)] == ["Ann left"]
    [pair] = read_documents(path, template="{text}: {label}")
    assert (pair.prompt, pair.text) == ("Ann left:", " x")
