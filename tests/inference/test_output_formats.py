"""Answers stand next to the records that they answer, and overwrite nothing."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.files import log_nothing
from jaxft.data.sources.formats import TEXTS, FileFormat
from jaxft.errors import UserError
from jaxft.inference.answers import Counts, answer_items, log_counts
from jaxft.inference.input_records import open_input
from jaxft.inference.output_formats import RecordWriter, TableWriter, choose_names


def parse(item):
    if "bad" in item.value["text"]:
        raise UserError(f"{item.where}: bad")
    return item.value["text"]


def answer(examples):
    """Answers groups of up to three texts with their lengths."""
    group = []
    for example in examples:
        if example is None or len(group) == 3:
            yield group
            group = []
        if example is not None:
            group.append((example, {"length": len(example)}))
    yield group


def run(path, make_writer, on_error="record", log=log_nothing):
    """Returns the output and the counts."""
    records = open_input(str(path), TEXTS, FileFormat(), log_nothing, keys=["text"])
    output = []
    writer = make_writer(records.lines, records.source.format)
    counts = answer_items(
        records.read("text", None), parse, answer, writer, output.extend, on_error=on_error, log=log
    )
    return b"".join(output).decode(), counts


def make_table_writer(lines, format):
    return TableWriter(lines, format, ["length"], format_cell=str, has_errors=True)


def make_record_writer(lines, format):
    return RecordWriter(
        lines, extend=lambda item, example, answer: item.value | answer, keeps_blank_lines=True
    )


texts = st.lists(
    st.sampled_from(["a", "bad", "a,b", 'say "x"', "two\nlines", "", "é"]), min_size=1, max_size=12
)


@given(texts)
def test_a_table_keeps_its_rows_and_says_which_have_errors(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(rows)])
    output, counts = run(path, make_table_writer)
    header, *written = csv.reader(io.StringIO(output, newline=""))
    assert header == ["id", "text", "length", "error"]
    assert [row[:2] for row in written] == [[str(index), text] for index, text in enumerate(rows)]
    assert [row[2] for row in written] == ["" if "bad" in text else str(len(text)) for text in rows]
    assert [row[3].endswith(": bad") for row in written] == ["bad" in text for text in rows]
    assert counts == (len(rows) - rows.count("bad"), rows.count("bad"))


def test_a_row_of_another_width_becomes_a_row_with_its_text(tmp_path):
    (tmp_path / "in.csv").write_text("text;id\na;1\nb;2;3\n\nc;4\n")
    output, _ = run(tmp_path / "in.csv", make_table_writer)
    rows = list(csv.reader(io.StringIO(output), delimiter=";"))
    assert [row[:3] for row in rows] == [
        ["text", "id", "length"],
        ["a", "1", "1"],
        ["b;2;3", "", ""],
        [],
        ["c", "4", "1"],
    ]
    assert "line 3: 3 fields where the header has 2" in rows[2][3]


@given(texts)
def test_records_keep_their_lines(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("records") / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in rows))
    output, _ = run(path, make_record_writer)
    assert output.split("\n")[1::2] == [""] * len(rows)
    for text, line in zip(rows, output.split("\n")[::2], strict=False):
        record = json.loads(line)
        assert record.pop("text") == text
        assert record.keys() == ({"error"} if "bad" in text else {"length"})


def test_a_document_becomes_lines(tmp_path):
    (tmp_path / "in.json").write_text(json.dumps([{"text": "a"}, {"text": "bad", "id": 2}], indent=1))
    output, _ = run(tmp_path / "in.json", make_record_writer)
    first, second = map(json.loads, output.splitlines())
    assert first == {"text": "a", "length": 1}
    assert second.pop("error").endswith("in.json, record 2: bad") and second == {"text": "bad", "id": 2}


def test_the_answers_before_an_error_are_written(tmp_path):
    (tmp_path / "in.txt").write_text("a\nbb\nccc\ndddd\nbad\neeeee\n")
    records = open_input(str(tmp_path / "in.txt"), TEXTS, FileFormat(), log_nothing, keys=["text"])
    writer, output = make_record_writer(records.lines, None), []
    with pytest.raises(UserError, match=r"in.txt, line 5: bad \(--on_error=record"):
        answer_items(
            records.read("text", None), parse, answer, writer, output.extend, on_error="stop", log=log_nothing
        )
    assert [json.loads(line)["length"] for line in b"".join(output).splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_an_example_that_cannot_be_encoded_costs_no_other_answer(on_error, tmp_path):
    """It fails with the group that it is encoded in."""

    def encode_and_answer(examples):
        for group in answer(examples):
            if any("odd" in example for example, _ in group):
                raise UserError("odd cannot be encoded")
            yield group

    (tmp_path / "in.txt").write_text("a\nbb\nccc\ndddd\nodd\neeeee\nffffff\n")
    records = open_input(str(tmp_path / "in.txt"), TEXTS, FileFormat(), log_nothing, keys=["text"])
    writer, output = make_record_writer(records.lines, None), []
    options = {"on_error": on_error, "log": log_nothing}
    items = records.read("text", None)
    if on_error == "stop":
        with pytest.raises(UserError, match="odd cannot be encoded .--on_error=record"):
            answer_items(items, parse, encode_and_answer, writer, output.extend, **options)
    else:
        counts = answer_items(items, parse, encode_and_answer, writer, output.extend, **options)
        assert counts == (6, 1)
    lengths = [1, 2, 3, 4] + ([None, 5, 6] if on_error == "record" else [])
    assert [json.loads(line).get("length") for line in b"".join(output).splitlines()] == lengths


def test_a_broken_quote_and_bytes_that_are_no_text_cost_their_rows_only(tmp_path):
    (tmp_path / "in.csv").write_bytes(b'text,id\na,1\n"b"x,2\nc,3\n\xff,4\nd,5\n"e,6\nf,7\n')
    output, counts = run(tmp_path / "in.csv", make_table_writer)
    rows = list(csv.reader(io.StringIO(output)))
    assert [row[2] for row in rows] == ["length", "1", "", "1", "", "1", ""] and counts == (3, 3)
    for row, message in (
        (2, "line 3: not valid CSV"),
        (4, "line 5, byte 1"),
        (6, "line 7 to 8: not valid CSV"),
    ):
        assert message in rows[row][3]


def test_a_key_of_the_input_is_never_overwritten():
    assert choose_names(["entities"], {"text": 1}, "x") == {"entities": "entities"}
    assert choose_names(["entities"], {"entities": 1}, "x") == {"entities": "predicted_entities"}
    for keys, used in (
        (["entities"], ["entities", "predicted_entities"]),
        (["predicted_label", "score"], ["predicted_label"]),
    ):
        with pytest.raises(
            UserError, match=f"x: the key {keys[0]!r} is there already, .* rename or remove it"
        ):
            choose_names(keys, used, "x")
    with pytest.raises(UserError, match="x: the key 'generated' is there already"):
        choose_names(["generated"], ["generated"], "x", renames=False)


def test_a_single_record_is_counted_in_the_singular():
    logged = []
    for counts in (Counts(1, 0), Counts(1, 1)):
        log_counts(counts, "text", 0.25, logged.append)
    assert logged == ["1 text in 0.2 s", "2 texts in 0.2 s, 1 with an error"]


def test_an_output_that_fails_is_no_mistake_of_a_record(tmp_path):
    (tmp_path / "in.csv").write_text("text,error\na,1\nbad,2\nc,3\nd,4\n")
    with pytest.raises(
        UserError, match="line 2: the key 'error' is there already, and the answer would overwrite"
    ):
        run(tmp_path / "in.csv", make_table_writer)
    records = open_input(str(tmp_path / "in.csv"), TEXTS, FileFormat(), log_nothing, keys=["text"])
    writer = make_record_writer(records.lines, None)

    def fail(lines):
        if any(lines):
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="^the disk is full$"):
        items = records.read("text", None)
        answer_items(items, parse, answer, writer, fail, on_error="record", log=log_nothing)
